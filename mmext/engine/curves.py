"""Curves of a training, from the ``scalars.json`` that MMEngine's LocalVisBackend writes."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Name -> steps and values, two arrays of one length.
Scalars = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]


def read_scalars(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the scalars of one run or of all runs of a work dir.

    A series is called as in MMEngine's message hub: ``train/loss``, ``train/lr``,
    ``val/coco/bbox_mAP``. MMEngine writes the names without the prefix; lines that hold ``iter``
    come from the training, all others count as validation. Values that are no numbers are left
    out.

    Args:
        path: A work dir (its runs are taken in the order of their timestamps; where steps repeat
            after a resume the later run wins), the folder of one run, or a ``scalars.json``.

    Returns:
        dict: Name -> (steps ascending, int64 ``(N,)``; values, float64 ``(N,)``). The steps of a
        validation are epochs or iterations, as LoggerHook's ``log_metric_by_epoch`` says.

    Raises:
        FileNotFoundError: Nothing to read at ``path``.
        ValueError: A line is no JSON object; a last line cut off by a killed run is skipped.
    """
    path = Path(path)
    if path.is_file():
        files = [path]
    else:
        files = [*path.glob('vis_data/scalars.json'), *path.glob('*/vis_data/scalars.json')]
        # Folders of runs are named by time; the modification time may have changed in a copy.
        files.sort(key=lambda file: file.parent.parent.name)
    if not files:
        raise FileNotFoundError(
            f'no vis_data/scalars.json in {path} or its runs; a run writes it with '
            "vis_backends=[dict(type='LocalVisBackend')]"
        )
    series: dict[str, dict[int, float]] = {}
    for file in files:
        for record in _read_records(file):
            step = int(record.pop('step', 0))
            stage = 'train' if 'iter' in record else 'val'
            for name, value in record.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    series.setdefault(f'{stage}/{name}', {})[step] = float(value)
    return {
        name: (
            np.array(sorted(points), dtype=np.int64),
            np.array([points[step] for step in sorted(points)], dtype=np.float64),
        )
        for name, points in series.items()
    }


def _read_records(file: Path) -> list[dict]:
    lines = file.read_text(encoding='utf-8', errors='replace').rstrip('\n').split('\n')
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError('not an object')
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f'{file}, line {number} is damaged ({error}): {line[:80]!r}'
            ) from error
        records.append(record)
    return records


def training_minutes(scalars: Scalars) -> float:
    """Return the minutes of all training iterations, data loading included.

    The log has the mean time of an iteration since the last logged one, so a resumed training
    counts in full.
    """
    steps, seconds = scalars['train/time']
    return float(np.sum(np.diff(steps, prepend=0) * seconds)) / 60


def smooth(values: np.ndarray, horizon: float) -> np.ndarray:
    """Average each value with those before it, weighted by ``exp(-distance / horizon)``.

    The weights are normalised, so there is no bias at the start. Values that are not finite
    neither count nor spread.

    Args:
        values (np.ndarray): ``(N,)``.
        horizon (float): In samples, > 0.

    Returns:
        np.ndarray: float64 ``(N,)``; NaN until the first finite value.
    """
    keep = np.exp(-1 / horizon)
    total = weight = 0.0
    result = np.full(len(values), np.nan)
    for index, value in enumerate(values):
        total, weight = total * keep, weight * keep
        if np.isfinite(value):
            total, weight = total + float(value), weight + 1
        if weight:
            result[index] = total / weight
    return result


def plot_curves(scalars: Scalars, path: str | os.PathLike) -> None:
    """Draw losses (smoothed over the raw values), learning rates and validation metrics.

    The file appears whole or not at all, and pyplot's global state is not used, so a figure of a
    running program is left alone. Panels without data are left out.

    Args:
        scalars: As :func:`read_scalars` returns them.
        path: Image to write; the suffix decides the format.

    Raises:
        ValueError: There is no curve to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train = [name for name in scalars if name.startswith('train/')]
    losses = [name for name in train if 'loss' in name]
    # An OptimWrapperDict logs one rate per member: train/generator.lr.
    rates = [name for name in train if name.replace('/', '.').endswith('.lr')]
    # How long an iteration takes is logged in both stages.
    clocks = ('val/time', 'val/data_time')
    metrics = [
        name
        for name, (_, values) in scalars.items()
        # COCO writes -1 where there is no object of a size.
        if name.startswith('val/') and name not in clocks and set(values) != {-1.0}
    ]
    panels = [
        (losses, 'training loss (faint: as logged, solid: smoothed)', 'iteration'),
        (rates, 'learning rate (per step)', 'iteration'),
        (metrics, "validation metric (the metric's own unit)", metric_unit(scalars, metrics)),
    ]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        raise ValueError(f'no loss, learning rate or metric among {sorted(scalars)}')

    figure = Figure(figsize=(8, 3.2 * len(panels)), layout='constrained')
    FigureCanvasAgg(figure)
    column = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (names, label, unit) in zip(column, panels, strict=True):
        for name in names:
            steps, values = scalars[name]
            short = name.partition('/')[2]
            if names is losses:
                (line,) = axes.plot(steps, values, alpha=0.25, linewidth=1)
                average = smooth(values, horizon=max(1, len(values) / 50))
                axes.plot(steps, average, color=line.get_color(), label=short)
            else:
                axes.plot(steps, values, marker='o' if names is metrics else '', label=short)
        axes.set_xlabel(unit)
        axes.set_ylabel(label, fontsize='small')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')

    save_figure(figure, path)


def save_figure(figure: Any, path: str | os.PathLike) -> None:
    """Write a figure of matplotlib, whole or not at all; the suffix decides the format."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        figure.savefig(temporary, format=path.suffix[1:] or 'png', dpi=120)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def metric_unit(scalars: Scalars, metrics: Sequence[str]) -> str:
    """Tell whether LoggerHook counted validations by epoch; nothing in the file says so."""
    if 'train/epoch' not in scalars or not metrics:
        return 'iteration'
    last = max(int(scalars[name][0][-1]) for name in metrics)
    return 'epoch' if last <= scalars['train/epoch'][1].max() else 'iteration'
