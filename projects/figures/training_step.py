"""A training step with its phases, and where each plugin acts."""

import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

SOURCES = ()
#: Part of a step: left edge, width, text.
PARTS = (
    (0.0, 1.5, 'batch'),
    (2.0, 1.8, 'forward'),
    (4.6, 1.8, 'backward'),
    (7.2, 1.9, 'exchange\nbetween ranks'),
    (9.9, 1.8, 'optimizer\nupdate'),
)
#: Phase of ``mmext.engine.phases`` -> where it fires.
PHASES = {
    'before_forward': 1.75,
    'before_backward': 4.2,
    'after_backward': 6.8,
    'before_update': 9.5,
    'after_update': 11.95,
}
#: Plugin, left and right end of what it does, row.
ACTS = (
    ('guided_cw, mat: adversarial images', 0.0, 3.8, 0),
    ('cst, mat, conv_m, ctf_gan, randomized_smoothing: model, loss', 2.0, 9.3, 1),
    ('smoothout: noise in, noise out', 1.75, 6.8, 2),
    ('terngrad: -1, 0, +1', 7.0, 9.3, 2),
    ('sam: second pass', 4.2, 6.4, 3),
    ('force_regularization', 9.0, 11.7, 3),
    ('cst: teachers', 10.4, 12.1, 2),
)


def draw(theme: style.Style) -> Figure:
    """Boxes of a step, phases between them, plugins below."""
    figure, (ax,) = style.axes(height=3.5)
    style.pictures(ax)
    ax.set(xlim=(-0.2, 12.4), ylim=(-3.6, 2.6))
    for left, width, text in PARTS:
        _box(ax, left, 0.2, width, 1.0, theme.accent, theme.paper)
        ax.text(left + width / 2, 0.7, text, ha='center', va='center', color=theme.paper)
    for (left, width, _), (right, _, _) in zip(PARTS, PARTS[1:], strict=False):
        arrow = dict(arrowstyle='->', color=theme.ink, lw=1.4)
        ax.annotate('', (right, 0.7), (left + width, 0.7), arrowprops=arrow)
    for phase, place in PHASES.items():
        ax.plot([place, place], [0.0, 1.45], color=theme.cycle[0], lw=1.4, ls=':')
        ax.text(
            place, 1.55, phase, ha='center', rotation=14, color=theme.cycle[0], fontsize=9,
            family='monospace',
        )  # fmt: skip
    for text, left, right, row in ACTS:
        bottom = -0.75 - 0.78 * row
        _box(ax, left, bottom, right - left, 0.55, theme.paper, theme.muted)
        ax.text((left + right) / 2, bottom + 0.27, text, ha='center', va='center', fontsize=9)
    return figure


def _box(ax: Axes, left: float, bottom: float, width: float, height: float, fill, edge) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle='round,pad=0,rounding_size=0.12',
            facecolor=fill,
            edgecolor=edge,
            lw=1.2,
        )  # fmt: skip
    )
