"""Guided CW at a small budget: what the attacks change, and success by the number of gradients."""

import matplotlib.pyplot as plt
import numpy as np
import style
from matplotlib.figure import Figure

RESULTS = 'projects/guided_cw/results'
SOURCES = (
    f'{RESULTS}/pictures/glyphs.png',
    f'{RESULTS}/pictures/glyphs.json',
    f'{RESULTS}/budget_digits.json',
)
#: Method -> its name in the legend.
METHODS = {
    'CW': 'CW, lr 0.01',
    'guided CW': 'guided CW, lr 0.01',
    'CW, tuned lr': 'CW, lr tuned',
    'DDN': 'DDN',
}


def draw(theme: style.Style) -> Figure:
    """Above: clean and attacked images. Below: success and distance against gradients."""
    figure = plt.figure(figsize=(style.WIDTH, 5.2), layout='constrained')
    above, below = figure.subfigures(2, 1, height_ratios=(1.05, 1))
    told = style.recorded(SOURCES[1])
    tiles = style.image(SOURCES[0])
    side = len(tiles) // 3
    rows = above.subplots(3, tiles.shape[1] // side)
    above.suptitle('5 constants × 50 steps, learning rate 0.01', fontsize=11.5)
    for line, name in enumerate(('clean', 'CW', 'guided CW')):
        for column, found in enumerate(told[name]):
            ax = style.pictures(rows[line, column])
            window = slice(column * side, (column + 1) * side)
            tile = tiles[line * side : (line + 1) * side, window]
            ax.imshow(tile, cmap='gray', vmin=0, vmax=1)
            ax.set_xlabel(*caption(found, line == 0), fontsize=9, labelpad=3)
            if found is None:
                ax.images[0].set_alpha(0.35)
        rows[line, 0].set_ylabel(name.split()[0])
    curves(below.subplots(1, 2), style.recorded(SOURCES[2])['rows'], theme)
    return figure


def caption(found: str | dict | None, clean: bool) -> tuple[str]:
    """What stands below an image."""
    if clean:
        return (f'seen as {found}',)
    return ('no success',) if found is None else (f'{found["seen as"]}, L2 {found["L2"]:.1f}',)


def curves(axes: np.ndarray, rows: list[dict], theme: style.Style) -> None:
    """Success and median L2 of each method by the gradients of a budget."""
    colours = dict(zip(METHODS, (theme.muted, theme.accent, *theme.cycle), strict=False))
    for method in METHODS:
        own = [row for row in rows if row['method'] == method]
        for ax, metric in zip(axes, ('success %', 'median L2'), strict=True):
            shown = [row for row in own if metric in row['metrics']]
            ax.plot(
                [row['cost']['gradients'] for row in shown],
                [row['metrics'][metric]['mean'] for row in shown],
                marker='o', color=colours[method], label=METHODS[method],
                linestyle='--' if 'tuned' in method else '-',
            )  # fmt: skip
    labels = 'success on digits (%)', 'median L2 if all succeed'
    for ax, label in zip(axes, labels, strict=True):
        ax.set(xscale='log', xlabel='gradients per image', ylabel=label)
        ax.set_xticks([100, 250, 900, 2700], ['100', '250', '900', '2,700'])
        ax.minorticks_off()
    axes[0].legend(loc='lower right')
