"""Force regularization: ranks of the layers, and accuracy against the MACs that are left."""

import numpy as np
import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SOURCES = (
    'projects/force_regularization/results/resnet20_glyphs.json',
    'projects/force_regularization/results/lenet_digits.json',
)
# Method in the record -> its name on the page, in the order of drawing.
METHODS = {
    'plain': 'no force',
    'TRP': 'trained rank pruning',
    'L1 force': 'L1 force',
    "plain at L2's ranks": "no force, L2's ranks",
    'L2 force': 'L2 force',
}


def draw(theme: style.Style) -> Figure:
    """Left: ranks of ResNet-20 by layer. Others: accuracy by MACs after fine-tuning."""
    results = [style.recorded(source) for source in SOURCES]
    tables = [{row['method']: row for row in result['rows']} for result in results]
    colours = dict(zip(METHODS, (theme.muted, *theme.cycle[1::-1], theme.cycle[2], theme.accent),
                       strict=True))  # fmt: skip
    figure, (ranks, *points) = style.axes(3, height=3.4, width_ratios=(1.5, 1, 1))
    draw_ranks(ranks, tables[0], colours)
    for axes, table, title in zip(points, tables, ('ResNet-20', 'LeNet'), strict=True):
        draw_points(axes, table, colours)
        axes.set_title(f'{title}, fine-tuned')
    points[0].set_ylabel('test accuracy (%)')
    handles, labels = points[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=len(METHODS),
                  handletextpad=0.2, columnspacing=1)  # fmt: skip
    return figure


def draw_ranks(axes: Axes, table: dict, colours: dict[str, str]) -> None:
    """Share of the full rank that a layer keeps, mean over the seeds; shortcuts are left out."""
    for method, row in table.items():
        if 'ranks' in method:
            continue
        shares = [
            [(rank or full) / full for name, (rank, full) in layers.items() if is_inner(name)]
            for layers in row['ranks']
        ]
        mean = 100 * np.mean(shares, 0)
        axes.plot(range(2, len(mean) + 2), mean, marker='o', ms=4, color=colours[method])
    axes.set(xlabel='convolution of ResNet-20', ylabel='rank / full rank (%)', ylim=(0, 104),
             title='Ranks at 95 % energy')  # fmt: skip
    axes.set_xticks([2, 8, 14, 19])


def is_inner(name: str) -> bool:
    """Whether a layer feels the force: not the first convolution, no shortcut."""
    return name != 'backbone.conv1' and 'downsample' not in name


def draw_points(axes: Axes, table: dict, colours: dict[str, str]) -> None:
    """A point for each method with the standard deviations over the seeds."""
    for method, name in METHODS.items():
        macs, tuned = (table[method]['metrics'][key] for key in ('fewer MACs x', 'fine-tuned %'))
        marker = 's' if 'ranks' in method else 'o'
        axes.errorbar(macs['mean'], tuned['mean'], tuned['std'], macs['std'], marker=marker, ms=7,
                      ls='', capsize=2, lw=1.4, color=colours[method], label=name)  # fmt: skip
    axes.set(xlabel='times fewer MACs', xlim=(0.7, 3.9), ylim=(93.5, 99.2))
