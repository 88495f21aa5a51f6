"""CST: the cycle of two students and two teachers, and detections of the demo."""

import matplotlib.pyplot as plt
import style
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmext.plugins.cst.functional import cross_iou

SOURCES = 'projects/cst/results/demo/scenes.jpg', 'projects/cst/results/demo/scenes.json'
ROWS = {'supervised': 'labels alone', 'cst': 'CST, one teacher'}
PICTURES = 4
#: Corners of the cycle and its arrows.
PLACES = {'S1': (0, 1), 'T1': (1, 1), 'S2': (1, 0), 'T2': (0, 0)}
ARROWS = (('S1', 'T1', 'average'), ('T1', 'S2', 'boxes'), ('S2', 'T2', 'average'),
          ('T2', 'S1', 'boxes'))  # fmt: skip
#: The least overlap of a detection that counts as right.
IOU = 0.5


def draw(theme: style.Style) -> Figure:
    """Left: the cycle. Right: the first test images with the detections of both methods."""
    figure = plt.figure(figsize=(style.WIDTH, 3.15), layout='constrained')
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.6))
    cycle(left.subplots(), theme)
    told = style.recorded(SOURCES[1])
    strip = style.image(SOURCES[0])
    side = len(strip)
    for line, (name, title) in zip(right.subplots(2, PICTURES), ROWS.items(), strict=True):
        for index, ax in enumerate(line):
            style.pictures(ax)
            # Fewer colours make the file smaller, and nobody sees it.
            tile = strip[:, index * side : (index + 1) * side] // 8 * 8 + 4
            ax.imshow(tile, interpolation='nearest')
            boxes(ax, told[name]['detections'][index], told['objects'][index])
        line[0].set_ylabel(f'{title}\n{100 * told[name]["mAP"]:.1f} mAP', fontsize=9.5)
    return figure


def cycle(ax: Axes, theme: style.Style) -> None:
    """S1 -> T1 -> S2 -> T2 -> S1."""
    style.pictures(ax, 'The cycle')
    ax.set(xlim=(-0.45, 1.45), ylim=(-0.45, 1.45), aspect='equal')
    for name, place in PLACES.items():
        colour = theme.accent if name[0] == 'T' else theme.muted
        ax.text(
            *place, name, ha='center', va='center', fontsize=12, color=theme.paper, weight='bold',
            bbox={'boxstyle': 'circle', 'fc': colour, 'ec': 'none'},
        )  # fmt: skip
    for start, end, label in ARROWS:
        (x1, y1), (x2, y2) = PLACES[start], PLACES[end]
        ax.annotate(
            '', (x2, y2), (x1, y1),
            arrowprops={'arrowstyle': '->', 'color': theme.ink, 'lw': 1.6, 'shrinkA': 17,
                        'shrinkB': 17},
        )  # fmt: skip
        upright = x1 == x2
        # Beside the middle of the arrow, away from the centre of the cycle.
        place = [1.26 * x - 0.13 for x in ((x1 + x2) / 2, (y1 + y2) / 2)]
        ax.text(*place, label, ha='center', va='center', fontsize=10, rotation=90 * upright)


def boxes(ax: Axes, found: list[dict], wanted: list[dict]) -> None:
    """Right detections green, wrong ones red, objects that were missed dotted."""
    places = (torch.tensor([one['box'] for one in part]).view(-1, 4) for part in (found, wanted))
    overlaps = cross_iou(*places)
    missed = list(range(len(wanted)))
    for one, row in sorted(zip(found, overlaps, strict=True), key=lambda pair: -pair[0]['score']):
        hits = [i for i in missed if wanted[i]['class'] == one['class'] and row[i] > IOU]
        outline(ax, one, '#3fe03f' if hits else '#ff5533', '-')
        missed = [i for i in missed if i not in hits[:1]]
    for index in missed:
        outline(ax, wanted[index], 'white', ':')


def outline(ax: Axes, one: dict, colour: str, line: str) -> None:
    """A box with its class."""
    x1, y1, x2, y2 = one['box']
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.8, ls=line))
    if line == '-':
        ax.text(x1 + 2, y1 + 2, one['class'], va='top', fontsize=9, color='black',
                bbox={'fc': colour, 'ec': 'none', 'pad': 0.8})  # fmt: skip
