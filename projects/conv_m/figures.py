"""Figures of the study from its results."""

import json
from pathlib import Path

from harness.report import figure


def draw(folder: Path) -> None:
    """Draw ``accuracy.png`` and, where features were kept, ``features.png``."""
    losses = json.loads((folder / 'losses.json').read_text())
    ability = json.loads((folder / 'ability.json').read_text())
    bars(losses, ability, folder / 'accuracy.png')
    if any('embedding' in row for row in losses['rows']):
        features(losses, folder / 'features.png')


def bars(losses: dict, ability: dict, path: Path) -> None:
    """Accuracy of each method, a panel per task: ConvMNet's, then those of the other networks."""
    from matplotlib.patches import Patch

    rows = losses['rows'] + [row for row in ability['rows'] if row['network'] != 'ConvMNet']
    tasks = list(dict.fromkeys(row['task'] for row in rows))
    networks = dict.fromkeys(row['network'] for row in rows)
    colours = {network: f'C{index}' for index, network in enumerate(networks)}
    with figure(path, columns=len(tasks), size=(4.9, 5.2)) as panels:
        for axes, task in zip(panels, tasks, strict=True):
            shown = [row for row in rows if row['task'] == task]
            values = [row['metrics']['last iteration %'] for row in shown]
            axes.barh(
                range(len(shown)), [value['mean'] for value in values],
                xerr=[value['std'] for value in values], capsize=2,
                color=[colours[row['network']] for row in shown],
            )  # fmt: skip
            axes.set_yticks(range(len(shown)), [row['title'] for row in shown], fontsize=7)
            axes.invert_yaxis()
            axes.set(xlabel='target test accuracy (%)', xlim=(0, 100), title=shown[0]['setting'])
        axes.figure.legend(
            handles=[Patch(color=colour, label=network) for network, colour in colours.items()],
            loc='outside lower center', ncols=3, frameon=False,
        )  # fmt: skip


def features(losses: dict, path: Path) -> None:
    """t-SNE of the features of source and target, before and after adaptation."""
    rows = {row['title']: row['embedding'] for row in losses['rows'] if 'embedding' in row}
    shown = [title for title in ('source only', 'all three') if title in rows]
    with figure(path, columns=len(shown), size=(5, 4.6)) as panels:
        for axes, title in zip(panels, shown, strict=True):
            found = rows[title]
            for domain, marker in (('source', 'o'), ('target', 'x')):
                x, y = zip(*found[domain], strict=True)
                axes.scatter(
                    x, y, 12, found[f'{domain}_labels'], marker, cmap='tab10', linewidths=0.8,
                    alpha=0.7, label=domain,
                )  # fmt: skip
            axes.set(title=title, xticks=[], yticks=[], xlabel='t-SNE 1', ylabel='t-SNE 2')
        for handle in panels[0].legend(fontsize=8).legend_handles:
            handle.set_color('0.4')  # colours are classes
