"""Adaptation by three losses: features of both domains, and the accuracy on the target."""

import matplotlib.pyplot as plt
import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SOURCES = ('projects/conv_m/results/losses.json',)
#: Title in the results -> label here.
METHODS = {
    'source only': 'source only',
    'adversarial (as DANN)': 'adversarial',
    'MMD (as DAN)': 'MMD',
    'label adaptation alone': 'label adaptation',
    'RTN-like (without adversarial)': 'MMD + label ad.',
    'all three': 'all three',
}
TASKS = {
    'font2hand': 'font digits → handwriting',
    'hand2font': 'handwriting → font digits',
    'glyphs': '200 glyphs, DejaVu → STIX',
}


def draw(theme: style.Style) -> Figure:
    """Above: t-SNE of the features without and with adaptation. Below: accuracies."""
    rows = style.recorded(SOURCES[0])['rows']
    figure = plt.figure(figsize=(style.WIDTH, 5.6), layout='constrained')
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    embedded = {row['title']: row['embedding'] for row in rows if 'embedding' in row}
    for ax, title in zip(above.subplots(1, 2), ('source only', 'all three'), strict=True):
        features(ax, embedded[title], theme)
        ax.set_title(f'Features (t-SNE), {title}')
    panels = below.subplots(1, 3, sharey=True)
    for ax, (task, title) in zip(panels, TASKS.items(), strict=True):
        bars(ax, [row for row in rows if row['task'] == task], theme)
        ax.set_title(title, fontsize=10)
    panels[1].set_xlabel('accuracy on the unlabelled domain (%)')
    return figure


def features(ax: Axes, found: dict, theme: style.Style) -> None:
    """Source as dots, target as crosses; a colour for each digit."""
    style.pictures(ax)
    ax.spines[:].set_visible(True)
    colours = plt.get_cmap('tab10')
    for domain, marker in (('source', 'o'), ('target', 'x')):
        x, y = zip(*found[domain], strict=True)
        ax.scatter(
            x, y, 14, [colours(label) for label in found[f'{domain}_labels']], marker,
            linewidths=1, alpha=0.8,
        )  # fmt: skip
        ax.scatter([], [], 20, theme.ink, marker, linewidths=1, label=domain)
    ax.legend(loc='lower left', fontsize=9, handletextpad=0.1, borderpad=0)


def bars(ax: Axes, rows: list[dict], theme: style.Style) -> None:
    """Mean and standard deviation of the seeds."""
    values = {row['title']: row['metrics']['last iteration %'] for row in rows}
    shown = [values[title] for title in METHODS]
    colours = [theme.muted, *theme.cycle[:3], theme.cycle[4], theme.accent]
    ax.barh(
        range(len(shown)), [value['mean'] for value in shown],
        xerr=[value['std'] for value in shown], color=colours, ecolor=theme.ink, capsize=2,
        error_kw={'elinewidth': 1},
    )  # fmt: skip
    ax.set_yticks(range(len(shown)), METHODS.values(), fontsize=9.5)
    ax.grid(axis='y', visible=False)
    ax.set(xlim=(0, 100), xticks=(0, 25, 50, 75))
    ax.yaxis.set_inverted(True)
