"""Trainings side by side: what ``mmext compare`` and ``tools/analysis_tools/plot_logs.py`` do.

Works on the scalars of :func:`mmext.engine.curves.read_scalars`; a group is the runs of one setting
with several seeds.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmext.engine.curves import Scalars, metric_unit, save_figure, smooth

#: Series of a validation that say how long it took.
CLOCKS = ('val/time', 'val/data_time')


def find_keys(runs: Iterable[Scalars], wanted: Sequence[str] = ()) -> list[str]:
    """Names of series to show.

    Args:
        runs: Scalars of all runs.
        wanted: Names with or without ``train/`` or ``val/``; empty: the training loss and every
            validation metric.

    Returns:
        list[str]: Full names, each once, in the order of ``wanted``.

    Raises:
        ValueError: No run has one of them; the message lists those there are.
    """
    present = list(dict.fromkeys(name for run in runs for name in run))
    if not wanted:
        metrics = [name for name in present if name.startswith('val/') and name not in CLOCKS]
        return [name for name in ('train/loss',) if name in present] + metrics
    found = []
    for key in wanted:
        matches = [name for name in (key, f'train/{key}', f'val/{key}') if name in present]
        if not matches:
            raise ValueError(f'no run has {key!r}; there are {", ".join(sorted(present))}')
        found.append(matches[0])
    return list(dict.fromkeys(found))


def end_values(scalars: Scalars) -> dict[str, float]:
    """What a run ended with: its last validation and the mean loss of its last tenth.

    Returns:
        dict: Metric -> value, without the prefix; ``'training loss'`` where one was logged. A
        metric that is not finite at the end is left as it is: it tells something.
    """
    found = {
        name.removeprefix('val/'): float(values[-1])
        for name, (_, values) in scalars.items()
        if name.startswith('val/') and name not in CLOCKS and len(values)
    }
    if 'train/loss' in scalars:
        losses = scalars['train/loss'][1]
        found['training loss'] = float(losses[-max(1, len(losses) // 10) :].mean())
    return found


def costs(scalars: Scalars) -> dict[str, float]:
    """Median seconds of an iteration and, on a GPU, the largest memory in MiB that was logged."""
    found = {}
    if 'train/time' in scalars:
        found['s/iteration'] = float(np.median(scalars['train/time'][1]))
    if 'train/memory' in scalars:
        found['GPU MiB'] = float(scalars['train/memory'][1].max())
    return found


def describe(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; None of one value, which has none) and all values."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': float(np.mean(values)), 'std': spread, 'values': [float(v) for v in values]}


def compare(
    base: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """Compare two settings seed by seed.

    Args:
        base: Seed -> measure -> value.
        other: As ``base``.

    Returns:
        dict: Measure -> ``base`` and ``other`` as :func:`describe` tells them, and ``difference``,
        other minus base of the same seed. Measures that a run lacks, and seeds that only one
        side has, are left out.

    Raises:
        ValueError: The sides have no seed in common.
    """
    seeds = sorted(set(base) & set(other))
    if not seeds:
        raise ValueError(
            f'no seed was run with both: {sorted(base)} with the first, {sorted(other)} with the '
            'second'
        )
    runs = [base[seed] for seed in seeds] + [other[seed] for seed in seeds]
    names = [name for name in runs[0] if all(name in run for run in runs)]
    table = {}
    for name in names:
        left = [base[seed][name] for seed in seeds]
        right = [other[seed][name] for seed in seeds]
        table[name] = {
            'base': describe(left),
            'other': describe(right),
            'difference': describe([b - a for a, b in zip(left, right, strict=True)]),
        }
    return table


def plot_runs(
    groups: Mapping[str, Sequence[Scalars]], keys: Sequence[str], path: str | os.PathLike
) -> None:
    """Draw one panel for each series: the mean of each group, and from its lowest to its highest.

    Losses are smoothed. Where the runs of a group were logged at different steps, those that all
    have are drawn. The file appears whole or not at all.

    Args:
        groups: Label -> runs.
        keys: Full names of series, as :func:`find_keys` returns them.
        path: Image to write; the suffix decides the format.

    Raises:
        ValueError: There is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not keys or not groups:
        raise ValueError('no series to draw: the runs have logged neither a loss nor a metric')
    columns = 1 if len(keys) == 1 else 2
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(6 * columns, 3.2 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for key, axes in zip(keys, panels, strict=False):
        for label, runs in groups.items():
            steps, curves = _together([run[key] for run in runs if key in run])
            if not len(steps):
                continue
            if 'loss' in key:
                curves = np.stack([smooth(c, max(1, len(c) / 50)) for c in curves])
            marker = 'o' if len(steps) < 2 or key.startswith('val/') else ''
            (line,) = axes.plot(steps, curves.mean(0), marker=marker, markersize=4, label=label)
            if len(curves) > 1:
                axes.fill_between(
                    steps, curves.min(0), curves.max(0), alpha=0.2, color=line.get_color()
                )
        axes.set(xlabel=_unit(key, groups), ylabel=key.partition('/')[2])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
    for axes in panels:
        axes.set_visible(False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def _unit(key: str, groups: Mapping[str, Sequence[Scalars]]) -> str:
    """What the steps of a series count: validations of runs by epochs are logged by epoch."""
    if key.startswith('train/'):
        return 'iteration'
    runs = [run for group in groups.values() for run in group if key in run]
    return 'epoch' if all(metric_unit(run, [key]) == 'epoch' for run in runs) else 'iteration'


def _together(series: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps that all series have, ``(N,)``, and the values there, ``(runs, N)``."""
    if not series:
        return np.zeros(0, np.int64), np.zeros((0, 0))
    common = set(series[0][0].tolist())
    for steps, _ in series[1:]:
        common &= set(steps.tolist())
    steps = np.array(sorted(common), np.int64)
    return steps, np.stack([values[np.isin(own, steps)] for own, values in series])
