"""Figures of the study from its results."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def draw(folder: Path) -> None:
    """Draw ``accuracy.png`` and, where features were kept, ``features.png``."""
    losses = json.loads((folder / 'losses.json').read_text())
    ability = json.loads((folder / 'ability.json').read_text())
    bars(losses, ability, folder / 'accuracy.png')
    if any('embedding' in row for row in losses['rows']):
        features(losses, folder / 'features.png')


def bars(losses: dict, ability: dict, path: Path) -> None:
    """Accuracy of each method, a panel per task: ConvMNet's, then those of the other networks."""
    from matplotlib.figure import Figure

    rows = losses['rows'] + [row for row in ability['rows'] if row['network'] != 'ConvMNet']
    tasks = list(dict.fromkeys(row['task'] for row in rows))
    networks = list(dict.fromkeys(row['network'] for row in rows))
    colours = {network: f'C{index}' for index, network in enumerate(networks)}
    drawing = Figure(figsize=(4.4 * len(tasks) + 1.6, 5.2), layout='constrained')
    for axes, task in zip(drawing.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        shown = [row for row in rows if row['task'] == task]
        values = [row['metrics']['last iteration %'] for row in shown]
        places = range(len(shown))
        axes.barh(
            places,
            [value['mean'] for value in values],
            xerr=[value['std'] for value in values],
            color=[colours[row['network']] for row in shown],
            capsize=2,
        )
        axes.set_yticks(places, [row['title'] for row in shown], fontsize=7)
        axes.invert_yaxis()
        axes.set(xlabel='target test accuracy (%)', xlim=(0, 100), title=shown[0]['setting'])
    from matplotlib.patches import Patch

    drawing.legend(
        handles=[Patch(color=colours[network], label=network) for network in networks],
        loc='outside lower center', ncols=3, frameon=False,
    )  # fmt: skip
    drawing.savefig(path, dpi=110)


def features(losses: dict, path: Path) -> None:
    """t-SNE of the features of source and target, before and after adaptation."""
    from matplotlib.figure import Figure

    rows = {row['title']: row for row in losses['rows'] if 'embedding' in row}
    shown = [title for title in ('source only', 'all three') if title in rows]
    drawing = Figure(figsize=(5 * len(shown), 4.6), layout='constrained')
    for axes, title in zip(drawing.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        found = rows[title]['embedding']
        for domain, marker in (('source', 'o'), ('target', 'x')):
            x, y = zip(*found[domain], strict=True)
            axes.scatter(
                x, y, 12, found[f'{domain}_labels'], marker, cmap='tab10', linewidths=0.8,
                alpha=0.7, label=domain,
            )  # fmt: skip
        axes.set(title=title, xticks=[], yticks=[], xlabel='t-SNE 1', ylabel='t-SNE 2')
    legend = drawing.axes[0].legend(fontsize=8)
    for handle in legend.legend_handles:
        handle.set_color('0.4')  # colours are classes
    drawing.savefig(path, dpi=110)


if __name__ == '__main__':
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / 'results')
