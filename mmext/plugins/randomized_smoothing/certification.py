"""Certify a data set, image by image on record, and report.

``mmext certify`` is the command line of this module.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate

from mmext.attacks.adversarial import attack_labels, content_mask, load_classifier
from mmext.launch.records import Records

from .certified_radius import RADII, certified_summary, write_tsv
from .functional import METHODS
from .sampling import Sampled
from .smoothed_classifier import SmoothedClassifier

RECORDS = 'records.jsonl'


def load_base(cfg: Config, checkpoint: str, device: str) -> torch.nn.Module:
    """Build the base classifier of a config and load its weights.

    Args:
        cfg: Config of a classifier of MMPretrain, or of ``mmext.ADREClassifier`` or
            ``mmext.SmoothedClassifier`` around one.
        checkpoint: Weights for ``cfg.model``.
        device: Where it shall be.

    Returns:
        The bare classifier in eval mode.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint does not fit the config, or the config has no model.
    """
    model = load_classifier(cfg, checkpoint, device)
    return getattr(model, 'classifier', model)


def certify_dataset(
    model: SmoothedClassifier,
    dataset: Any,
    indices: Sequence[int],
    out: str | os.PathLike,
    settings: dict[str, Any],
    on_samples: Callable[[int], None] | None = None,
    on_image: Callable[[int], None] | None = None,
) -> list[dict]:
    """Sample every image of ``indices`` that has no record in ``out`` yet.

    Each record is one line, appended in one write that reaches the disk before the next images
    begin; a line that a kill cut off is dropped, and its image done again. The numbers do not
    depend on where a run was cut.

    Args:
        model: Smoothed classifier; its ``images`` images are sampled at a time.
        dataset: Items as MMPretrain's ``PackInputs`` makes them.
        indices: Items to certify.
        out: Folder; its file ``records.jsonl`` is continued.
        settings: Whatever else the numbers depend on, for instance the hash of the checkpoint.
        on_samples: See :meth:`SmoothedClassifier.sample`.
        on_image: Called with the number of images done, those on record first.

    Returns:
        Records in the order of ``indices``: ``idx``, ``label``, ``select``, ``counts``, ``alpha``
        and ``seconds``.

    Raises:
        ValueError: The records belong to other settings, or the labels to other classes.
    """
    names = ('sigma', 'n0', 'n', 'alpha', 'batch', 'images', 'share_noise', 'target_radius', 'seed')
    header = {**{name: getattr(model, name) for name in names}, **settings}
    if model.target_radius is not None:
        header['method'] = model.method
    log = Records(Path(out) / RECORDS, header)
    done = {record['idx']: record for record in log.rows}
    todo = [index for index in indices if index not in done]
    if on_image is not None:
        on_image(len(indices) - len(todo))
    for start in range(0, len(todo), model.images):
        part = todo[start : start + model.images]
        began = time.perf_counter()
        labels, sampled = _sample(model, dataset, part, on_samples)
        seconds = (time.perf_counter() - began) / len(part)
        rows = zip(part, labels, sampled.select, sampled.counts, sampled.alpha, strict=True)
        records = [
            {
                'idx': int(idx),
                'label': int(label),
                'select': select.tolist(),
                'counts': counts.tolist(),
                'alpha': float(alpha),
                'seconds': seconds,
            }
            for idx, label, select, counts, alpha in rows
        ]
        log.append(records)
        done.update((record['idx'], record) for record in records)
        if on_image is not None:
            on_image(len(part))
    return [done[index] for index in indices]


def certificates(records: Sequence[dict], sigma: float, method: str) -> list[dict]:
    """Turn counts into rows ``idx, label, predict, radius, seconds``."""
    sampled = Sampled(
        *(np.array([record[name] for record in records]) for name in ('select', 'counts', 'alpha'))
    )
    predictions, radii = sampled.certify(sigma, method)
    return [
        {
            'idx': record['idx'],
            'label': record['label'],
            'predict': int(prediction),
            'radius': float(radius),
            'seconds': record['seconds'],
        }
        for record, prediction, radius in zip(records, predictions, radii, strict=True)
    ]


def report(
    records: Sequence[dict],
    out: str | os.PathLike,
    settings: dict[str, Any],
    methods: Sequence[str] = METHODS,
    radii: Sequence[float] = RADII,
) -> dict[str, dict[str, float]]:
    """Write ``<method>.tsv``, ``certified.json`` and ``certified.png`` into ``out``.

    Args:
        records: Of :func:`certify_dataset`.
        out: Folder.
        settings: Go into the JSON; ``sigma`` is needed.
        methods: Bounds to apply to the same counts.
        radii: Of the certified accuracy in the JSON.

    Returns:
        Summary of each method, see :func:`certified_summary`.
    """
    rows = {method: certificates(records, settings['sigma'], method) for method in methods}
    found, curves = {}, {}
    for method, certified in rows.items():
        write_tsv(Path(out) / f'{method}.tsv', certified)
        label, predicted, radius = (
            np.array([row[name] for row in certified]) for name in ('label', 'predict', 'radius')
        )
        found[method] = certified_summary(label, predicted, radius, radii)
        curves[method] = np.where(label == predicted, radius, -1.0)
    text = json.dumps({'settings': settings, 'images': len(records), 'methods': found}, indent=2)
    _write(Path(out) / 'certified.json', text + '\n')
    plot_certified(curves, Path(out) / 'certified.png')
    return found


def plot_certified(curves: dict[str, np.ndarray], path: str | os.PathLike) -> None:
    """Draw certified accuracy against radius.

    Args:
        curves: Name -> radius of each image, -1 where the prediction is wrong or missing.
        path: PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout='constrained')
    axes = figure.subplots()
    draw_certified(axes, curves)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def draw_certified(axes: Any, curves: dict[str, np.ndarray]) -> None:
    """Draw the steps of :func:`plot_certified` into given axes."""
    last = max(0.1, *(float(radius.max(initial=0)) for radius in curves.values()))
    for name, radius in curves.items():
        steps = np.sort(radius[radius >= 0])
        share = 100 * np.arange(len(steps), -1, -1) / len(radius)
        x = np.concatenate([[0.0], steps, [last * 1.03]])
        axes.step(x, np.append(share, 0), where='post', label=name)
    axes.set(xlim=(0, last * 1.03), ylim=(0, 102))
    axes.set_xlabel('L2 radius (pixels of range [0, 1])')
    axes.set_ylabel('certified accuracy (%)')


def _sample(
    model: SmoothedClassifier,
    dataset: Any,
    part: Sequence[int],
    on_samples: Callable[[int], None] | None,
) -> tuple[np.ndarray, Sampled]:
    items = [dataset[index] for index in part]
    shapes = {tuple(item['inputs'].shape) for item in items}
    collate = default_collate if len(shapes) == 1 else pseudo_collate
    batch = model.data_preprocessor(collate(items), False)
    inputs, samples = batch['inputs'], batch['data_samples']
    labels = attack_labels(samples, 'cpu').numpy()
    sampled = model.sample(
        model.space.to_pixels(inputs), part, content_mask(inputs, samples), on_samples
    )
    outputs = sampled.counts.shape[1]
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    expected = outputs if classes is None else len(classes)
    if expected != outputs or labels.max() >= outputs:
        raise ValueError(
            f'the classifier has {outputs} classes, the data set {max(expected, labels.max() + 1)}:'
            ' use the data set that the checkpoint was trained on'
        )
    return labels, sampled


def _write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + '.tmp')
    draft.write_text(text)
    os.replace(draft, path)
