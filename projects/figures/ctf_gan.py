"""CTF-GAN with fewer high-quality images: samples of the study, and their distance to real ones."""

import matplotlib.pyplot as plt
import numpy as np
import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = 'projects/ctf_gan/results'
SOURCES = tuple(
    f'{RESULTS}/{name}' for name in ('digits_samples.png', 'glyphs_samples.png', 'digits.json',
                                     'glyphs.json')
)  # fmt: skip
TITLES = {'digits': 'digits', 'glyphs': '1,000 characters'}
#: Title -> column and row of its panel in the pictures of samples.
PANELS = {
    'real': (0, 0),
    'SN-GAN 100 %': (1, 0),
    'SN-GAN 70 %': (2, 0),
    'CTF 70 %': (1, 1),
    'CTF+SSL 70 %': (2, 1),
}
#: Place of the first panel, distances of panels, and side of a sample with its gap, in pixels.
FIRST, STEP, SIDE = (10, 49), (385, 395), 36.5
SAMPLES = 4


def draw(theme: style.Style) -> Figure:
    """Above: samples, a class in each row. Below: FID-C of all methods."""
    figure = plt.figure(figsize=(style.WIDTH, 5.9), layout='constrained')
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    grid = above.subplots(len(TITLES), len(PANELS))
    for line, name in zip(grid, TITLES, strict=True):
        picture = style.image(f'{RESULTS}/{name}_samples.png')
        for ax, (title, place) in zip(line, PANELS.items(), strict=True):
            style.pictures(ax, title if name == 'digits' else '')
            ax.imshow(samples(picture, *place), interpolation='nearest')
            ax.title.set_size(10.5)
        line[0].set_ylabel(TITLES[name])
    for ax, name in zip(below.subplots(1, 2, sharey=True), TITLES, strict=True):
        rows = style.recorded(f'{RESULTS}/{name}.json')['rows']
        bars(ax, rows, theme)
        seeds = len(rows[0]['metrics']['FID-C']['values'])
        ax.set_xlabel(f'FID-C, {TITLES[name]}, {seeds} seed{"s" * (seeds > 1)}')
    return figure


def samples(picture: np.ndarray, column: int, row: int) -> np.ndarray:
    """The first samples of the first classes of a panel."""
    left, top = FIRST[0] + STEP[0] * column, FIRST[1] + STEP[1] * row
    side = round(SAMPLES * SIDE)
    return picture[top : top + side, left : left + side]


def bars(ax: Axes, rows: list[dict], theme: style.Style) -> None:
    """Mean and, of several seeds, standard deviation; less is better."""
    values = [row['metrics']['FID-C'] for row in rows]
    colours = [theme.accent if 'CTF' in row['method'] else theme.muted for row in rows]
    spread = [value['std'] for value in values] if any(value['std'] for value in values) else None
    ax.barh(
        range(len(rows)), [value['mean'] for value in values], xerr=spread, color=colours,
        ecolor=theme.ink, capsize=2, error_kw={'elinewidth': 1},
    )  # fmt: skip
    ax.set_yticks(range(len(rows)), [row['method'] for row in rows], fontsize=9)
    ax.grid(axis='y', visible=False)
    ax.yaxis.set_inverted(True)
