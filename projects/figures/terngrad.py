"""TernGrad: bytes that a rank sends for a step, and step time by the speed of the link."""

import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SOURCES = ('projects/terngrad/results/network.json',)
LINKS = {'100mbit': '100 Mbit/s', '1gbit': '1 Gbit/s', 'unlimited': 'no limit'}
# Method in the record -> its name on the page. fp16 and PowerSGD of rank 2 behave like these.
METHODS = {'fp32': 'float32', 'bf16': 'bfloat16', 'PowerSGD rank 1': 'PowerSGD, rank 1',
           'TernGrad': 'TernGrad'}  # fmt: skip


def draw(theme: style.Style) -> Figure:
    """Left: megabytes of a step, a bar for each method. Others: seconds of a step by link."""
    result = style.recorded(SOURCES[0])
    rows = {row['method']: row['metrics'] for row in result['rows']}
    colours = dict(zip(METHODS, (theme.muted, *theme.cycle[:2], theme.accent), strict=True))
    figure, (wire, *steps) = style.axes(3, height=3.3, width_ratios=(1.15, 1, 1))
    draw_bytes(wire, rows, colours, theme)
    for axes, ranks in zip(steps, (2, 4), strict=True):
        draw_times(axes, rows, ranks, colours)
        axes.set(title=f'Time of a step, {ranks} ranks', ylim=(0.11, 8))
    steps[0].set(ylabel='seconds')
    handles, labels = steps[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=len(METHODS))
    return figure


def draw_bytes(axes: Axes, rows: dict, colours: dict[str, str], theme: style.Style) -> None:
    """Bars of what the interface of a rank has counted, two ranks over one for four."""
    for index, method in enumerate(METHODS):
        for ranks, shift, alpha in ((2, -0.2, 1.0), (4, 0.2, 0.55)):
            sent = rows[f'{method}, {ranks} ranks, 1gbit']['MB/step']['mean']
            axes.barh(index + shift, sent, 0.38, color=colours[method], alpha=alpha)
            text = f'{sent:.2g} ({ranks} ranks)' if index == 0 else f'{sent:.2g}'
            axes.text(sent * 1.15, index + shift, text, va='center', fontsize=9, color=theme.ink)
    names = [name.replace(', ', ',\n') for name in METHODS.values()]
    axes.set_yticks(range(len(METHODS)), names)
    axes.set(xscale='log', xlim=(0.1, 3000), xlabel='MB, logarithmic', title='Sent for a step')
    axes.set_xticks([0.1, 1, 10, 100], ['0.1', '1', '10', '100'])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.grid(False)


def draw_times(axes: Axes, rows: dict, ranks: int, colours: dict[str, str]) -> None:
    """Mean and standard deviation of the step time over the rounds, a line for each method."""
    for method, name in METHODS.items():
        found = [rows[f'{method}, {ranks} ranks, {link}']['s/step'] for link in LINKS]
        means, spreads = zip(*((one['mean'], one['std']) for one in found), strict=True)
        axes.errorbar(range(len(LINKS)), means, spreads, marker='o', ms=5, capsize=2,
                      color=colours[method], label=name)  # fmt: skip
    axes.set_xticks(range(len(LINKS)), [name.replace(' ', '\n') for name in LINKS.values()])
    axes.set(yscale='log', xlim=(-0.3, len(LINKS) - 0.7))
    axes.set_yticks([0.2, 0.5, 1, 2, 5], ['0.2', '0.5', '1', '2', '5'])
    axes.minorticks_off()
