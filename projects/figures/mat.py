"""MAT: accuracy under attacks of rising strength, by what the network was trained on."""

import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SOURCES = ('projects/mat/results/working_zones.json',)
NAMES = {
    'clean': 'clean images only',
    'single 32': 'one strength: 32',
    'single 64': 'one strength: 64',
    'single 96': 'one strength: 96',
    'parallel': 'parallel MAT, four networks',
    'mixed, sample': 'mixed MAT, drawn strengths',
    'mixed, expand': 'mixed MAT, all strengths',
}
ATTACK = 'PGD-20'


def draw(theme: style.Style) -> Figure:
    """Left: a curve for each training. Right: its mean over the curve."""
    result = style.recorded(SOURCES[0])
    rows = {row['method']: row['metrics'] for row in result['rows']}
    colours = dict(zip(NAMES, (theme.muted, *theme.cycle, theme.accent), strict=True))
    figure, (left, right) = style.axes(2, height=3.5, width_ratios=(1.15, 1))
    draw_curves(left, rows, colours)
    draw_means(right, rows, colours, theme)
    return figure


def draw_curves(axes: Axes, rows: dict, colours: dict[str, str]) -> None:
    """Accuracy by the strength of the attack; single strengths are dashed."""
    for name in NAMES:
        found = {
            float(key.partition('@')[2]): value
            for key, value in rows[name].items()
            if key.startswith(f'{ATTACK}@')
        }
        means = [value['mean'] for value in found.values()]
        line = '-' if 'mixed' in name or name == 'parallel' else '--'
        axes.plot(found.keys(), means, line, color=colours[name])
    axes.set(xlabel='strength of the attack (1/255)', ylabel='accuracy (%)', ylim=(0, 102),
             title=f'Accuracy under {ATTACK}')  # fmt: skip
    axes.set_xticks([0, 16, 32, 48, 64, 80, 96])


def draw_means(axes: Axes, rows: dict, colours: dict[str, str], theme: style.Style) -> None:
    """Mean over the strengths, clean included, with the standard deviation over the seeds."""
    for index, name in enumerate(NAMES):
        found = rows[name][f'{ATTACK} mean %']
        axes.barh(index, found['mean'], 0.72, color=colours[name], xerr=found['std'],
                  ecolor=theme.ink)  # fmt: skip
        place = found['mean'] + found['std'] + 1.5
        axes.text(place, index, f'{found["mean"]:.1f}', va='center', color=theme.ink)
    axes.set_yticks(range(len(NAMES)), NAMES.values())
    axes.invert_yaxis()
    axes.grid(False, axis='y')
    axes.set(xlim=(0, 78), xlabel='accuracy (%)', title='Mean over the strengths')
