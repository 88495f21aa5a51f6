"""MVStylizer: one frame of the quality study made in five ways, and how much faster chains are."""

import matplotlib.pyplot as plt
import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

RESULTS = 'projects/mvstylizer/results'
SOURCES = f'{RESULTS}/contact_sheet.jpg', f'{RESULTS}/speed.json'
#: Titles of the columns of the contact sheet, whose first row is the clip of known flow.
COLUMNS = ('original', 'network, every frame', 'repeated key', 'warped key', 'FlowBlend',
           'AffinePropagation')  # fmt: skip
#: Left, top, width, height of the first picture of the sheet, and distance of columns, in pixels.
PICTURE, STEP = (30, 24, 280, 157), 293
#: Method in the results -> label here, and where its number stands beside the point of 1080p.
CHAINS = {
    'AffinePropagation': ('AffinePropagation', (-34, 5)),
    'MetaSmoothing, FlowBlend': ('MetaSmoothing +\nFlowBlend', (1, -17)),
}


def draw(theme: style.Style) -> Figure:
    """Left: the frame. Right: speed-up over the network on every full frame."""
    figure = plt.figure(figsize=(style.WIDTH, 3.0), layout='constrained')
    left, right = figure.subfigures(1, 2, width_ratios=(1.9, 1))
    sheet = style.image(SOURCES[0])
    x, y, width, height = PICTURE
    for column, (ax, title) in enumerate(zip(left.subplots(2, 3).flat, COLUMNS, strict=True)):
        style.pictures(ax, title)
        ax.title.set_size(9.5)
        start = x + STEP * column
        # Fewer colours make the file a third smaller, and nobody sees it.
        tile = sheet[y : y + height, start : start + width] // 8 * 8 + 4
        ax.imshow(tile, interpolation='nearest')
    speed_up(right.subplots(), style.recorded(SOURCES[1])['rows'], theme)
    return figure


def speed_up(ax: Axes, rows: list[dict], theme: style.Style) -> None:
    """Speed-up of both chains by resolution."""
    colours = theme.accent, theme.cycle[0]
    for (method, (label, beside)), colour in zip(CHAINS.items(), colours, strict=True):
        own = [r for r in rows if r['method'] == method and 'speed-up' in r['metrics']]
        values = [row['metrics']['speed-up']['mean'] for row in own]
        ax.plot([row['setting'] for row in own], values, marker='o', color=colour, label=label)
        ax.annotate(
            f'{values[-2]:.0f}×', (len(values) - 2, values[-2]), beside, color=colour,
            textcoords='offset points',
        )  # fmt: skip
    ax.set(yscale='log', ylim=(1, 400), title='Speed-up, one core', xlabel='resolution')
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}×'))
    ax.tick_params(labelsize=9)
    ax.legend(loc='lower right', fontsize=9)
