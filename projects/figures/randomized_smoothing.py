"""Randomized smoothing: certified accuracy by radius, four trainings and two bounds."""

import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SOURCES = ('projects/randomized_smoothing/results/adre.json',)
TRAININGS = {'Gaussian': 'Gaussian noise', 'ADRE': 'ADRE', 'SmoothAdv': 'SmoothAdv',
             'ADRE + adversarial': 'ADRE + adversarial'}  # fmt: skip
BOUNDS = {'cohen': "Cohen's bound", 't_certify': 'T-CERTIFY'}


def draw(theme: style.Style) -> Figure:
    """Left: trainings under Cohen's bound. Others: both bounds of the same networks."""
    result = style.recorded(SOURCES[0])
    rows = {row['method']: row for row in result['rows']}
    figure, (left, middle, right) = style.axes(3, height=3.5, width_ratios=(1.35, 1, 1))
    colours = (theme.muted, theme.accent, theme.cycle[0], theme.cycle[1])
    for (name, title), colour in zip(TRAININGS.items(), colours, strict=True):
        draw_curve(left, rows[f'digits, sigma 1, {name}'], 'cohen', title, colour)
    left.set(title='Training, digits', ylabel='certified accuracy (%)', xlim=(0, 3))
    for axes, data, limit in ((middle, 'digits', 3), (right, 'glyphs', 1.8)):
        for (bound, title), colour in zip(BOUNDS.items(), (theme.muted, theme.accent), strict=True):
            draw_curve(axes, rows[f'{data}, sigma 1, Gaussian'], bound, title, colour)
        axes.set(title=f'Certificate, {data}', xlim=(0, limit))
    right.set_xticks([0, 0.5, 1, 1.5], ['0', '0.5', '1', '1.5'])
    for axes in (left, middle, right):
        axes.set(xlabel='L2 radius', ylim=(0, 100))
        axes.legend(fontsize=9, handlelength=1.2, borderaxespad=0)
    return figure


def draw_curve(axes: Axes, row: dict, bound: str, name: str, colour: str) -> None:
    """Share of images that keep their right prediction within a radius, by radius."""
    curve = row['curve']
    percent = [100 * share for share in curve[bound]]
    axes.plot(curve['radius'], percent, color=colour, label=name)
