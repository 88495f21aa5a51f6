"""Rows and verdicts of the study from its records."""

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import runs  # noqa: E402
from evidence import paired, row  # noqa: E402

SINGLE = ('adversarial (as DANN)', 'MMD (as DAN)', 'label adaptation alone')
ALL = 'all three'
SOURCE = 'source only'
#: Accuracy points within which two are taken as equal.
MARGIN = 1.0
#: With fewer seeds no claim is met.
LEAST_SEEDS = 3


def group(rows: list[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """Records by task, network and method."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for record in rows:
        key = record['task'], record['network'], record['method']
        found.setdefault(key, []).append(record)
    return found


def results(rows: list[dict], costs: dict[str, dict]) -> dict[str, tuple[list[dict], str, str]]:
    """Table, verdict and reason of each claim."""
    records = group(rows)
    tasks = list(dict.fromkeys(task for task, _, _ in records))
    found = {
        'losses': losses(records, tasks),
        'accuracy': accuracy(records, tasks, costs),
        'ability': ability(records, tasks),
    }
    seeds = min(map(len, records.values()))
    early = seeds < LEAST_SEEDS
    missing = [title for task, (_, title) in runs.TASKS.items() if task not in tasks]
    notes = f' Stopped early, after {seeds} seed(s).' if early else ''
    notes += f' Not run: {", ".join(missing)}.' if missing else ''
    return {
        claim: (table, 'partly' if early and verdict == 'met' else verdict, why + notes)
        for claim, (table, verdict, why) in found.items()
    }


def line(records: dict, task: str, network: str, method: str) -> dict:
    """Row of a result: every way of choosing the iteration, under its own name."""
    found = records[task, network, method]
    metrics = {
        'last iteration %': [record['test'] for record in found],
        'oracle % (chosen with target labels)': [runs.chosen(r, 'val') for r in found],
        **{
            f'chosen by {score} %': [runs.chosen(record, score) for record in found]
            for score in ('entropy', 'information', 'snd')
        },
    }
    minutes = sum(record['minutes'] for record in found) / len(found)
    return row(
        f'{method}, {network}', runs.TASKS[task][1], metrics, cost={'minutes': minutes}, task=task,
        network=network, losses=list(runs.METHODS[method]), title=method,
    )  # fmt: skip


def mean(records: dict, task: str, network: str, method: str, key: str = 'test') -> float:
    """Mean over the seeds."""
    return statistics.fmean(record[key] for record in records[task, network, method])


def gap(records: dict, task: str, method: str, key: str = 'test', of: str = 'ConvMNet') -> float:
    """Points of a network over the GoogLeNet-style one."""
    return mean(records, task, of, method, key) - mean(records, task, 'SmallGoogLeNet', method, key)


def lead(records: dict, task: str, method: str, other: str) -> tuple[float, float]:
    """Points of a method over another with ConvMNet, seed by seed: mean and its standard error."""
    ours, theirs = (
        {row['seed']: row['test'] for row in records[task, 'ConvMNet', name]}
        for name in (method, other)
    )
    return paired([ours[seed] - theirs[seed] for seed in ours])


def losses(records: dict, tasks: list[str]) -> tuple[list[dict], str, str]:
    """All three against each alone, with ConvMNet."""
    table = []
    for key, found in records.items():
        if key[1] == 'ConvMNet':
            # Features, for their figure.
            drawn = [{'embedding': row['embedding']} for row in found if 'embedding' in row]
            table.append(line(records, *key) | (drawn[0] if drawn else {}))
    held, parts = [], []
    for task in tasks:
        ours = mean(records, task, 'ConvMNet', ALL)
        others = {
            method: mean(records, *key)
            for key in records
            if key[:2] == (task, 'ConvMNet') and (method := key[2]) != ALL
        }
        best = max((method for method in SINGLE if method in others), key=others.__getitem__)
        gain, error = lead(records, task, ALL, best)
        held.append(gain > error)
        most = max(others, key=others.__getitem__)
        parts.append(
            f'{runs.TASKS[task][1]}: all three {ours:.1f} %, best alone {best} with '
            f'{others[best]:.1f} % ({gain:+.1f} +- {error:.1f}), best of all others {most} with '
            f'{others[most]:.1f} %, source only {mean(records, task, "ConvMNet", SOURCE):.1f} %'
        )
    verdict = 'met' if all(held) else 'partly' if any(held) else 'not met'
    why = (
        'Target test accuracy of the last iteration; ahead where the mean difference of the seeds '
        'is above its standard error. '
    )
    return table, verdict, why + '; '.join(parts) + '.'


def accuracy(
    records: dict, tasks: list[str], costs: dict[str, dict]
) -> tuple[list[dict], str, str]:
    """ConvMNet against the GoogLeNet-style network."""
    table = []
    for network in runs.NETWORKS:
        found = {}
        for task in tasks:
            for name, method, key in (('source', SOURCE, 'source_test'), ('adapted', ALL, 'test')):
                found[f'{task}: {name} %'] = [r[key] for r in records[task, network, method]]
        setting = 'classification of the source; all three losses'
        table.append(row(network, setting, found, cost=costs[network]))
    table += [row(network, 'not trained', {}, cost=costs[network]) for network in runs.LARGE]
    share = costs['ConvMNet']['parameters'] / costs['SmallGoogLeNet']['parameters']
    gaps = {
        'classification': [gap(records, task, SOURCE, 'source_test') for task in tasks],
        'adaptation': [gap(records, task, ALL) for task in tasks],
    }
    held = [statistics.fmean(found) >= -MARGIN for found in gaps.values()]
    verdict = 'met' if all(held) else 'partly' if any(held) else 'not met'
    shown = {name: ', '.join(f'{points:+.1f}' for points in found) for name, found in gaps.items()}
    why = (
        f'ConvMNet minus the GoogLeNet-style network in points on {", ".join(tasks)}: '
        f'classification {shown["classification"]}, adaptation {shown["adaptation"]}, with '
        f'{100 * share:.0f} % of the parameters; met where both means are above -{MARGIN:g}. Small '
        'networks for 28 pixels; the large ones need ImageNet.'
    )
    return table, verdict, why


def ability(records: dict, tasks: list[str]) -> tuple[list[dict], str, str]:
    """Gain over source only: what a network loses against the GoogLeNet-style one."""
    table = [line(records, *key) for key in records if key[2] in (SOURCE, 'MMD (as DAN)', ALL)]
    small, ours = (
        statistics.fmean(
            gap(records, task, SOURCE, 'source_test', network)
            - gap(records, task, ALL, 'test', network)
            for task in tasks
        )
        for network in ('SmallSqueezeNet', 'ConvMNet')
    )
    verdict = 'not met'
    if small > MARGIN and small - ours > MARGIN:
        verdict = 'met' if ours <= MARGIN else 'partly'
    why = (
        'Points that a network loses to the GoogLeNet-style one in adaptation (all three) beyond '
        'what it loses in classification of the source, mean of the tasks: SqueezeNet-style '
        f'{small:+.1f}, ConvMNet {ours:+.1f}; partly where the first is above {MARGIN:g} and more '
        f'than {MARGIN:g} above the second, met where the second is at most {MARGIN:g} as well.'
    )
    return table, verdict, why
