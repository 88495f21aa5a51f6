"""Certified accuracy and average certified radius."""

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmext.registry import METRICS

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25)


def certified_summary(
    labels: Any, predictions: Any, radii: Any, at: Sequence[float] = RADII
) -> dict[str, float]:
    """Summarise certificates.

    Args:
        labels, predictions, radii: Of N images, (N,) each; -1 is an abstention.
        at: Radii of the certified accuracy, each >= 0.

    Returns:
        ``acr``: mean of the radii, those of wrong predictions taken as 0. ``accuracy@r``: percent
        of images predicted rightly with a radius of at least r. ``abstained``: percent.
    """
    labels, predictions, radii = (np.asarray(part) for part in (labels, predictions, radii))
    right = labels == predictions
    found = {'acr': float((radii * right).mean())}
    for radius in at:
        found[f'accuracy@{radius:g}'] = float(100 * (right & (radii >= radius)).mean())
    found['abstained'] = float(100 * (predictions < 0).mean())
    return found


def write_tsv(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write certificates in the format of Cohen's analysis scripts, complete or not at all.

    Args:
        path: File to write; its folder is made.
        rows: Mappings with ``idx``, ``label``, ``predict``, ``radius`` and ``seconds``.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    draft = f'{path}.tmp'
    with open(draft, 'w') as file:
        file.write('idx\tlabel\tpredict\tradius\tcorrect\ttime\n')
        for row in rows:
            right = int(row['label'] == row['predict'])
            time = datetime.timedelta(seconds=row['seconds'])
            file.write(
                f'{row["idx"]}\t{row["label"]}\t{row["predict"]}\t{row["radius"]:.6f}\t{right}\t'
                f'{time}\n'
            )
    os.replace(draft, path)


@METRICS.register_module()
class CertifiedRadius(BaseMetric):
    """Certified accuracy at given radii, average certified radius (ACR) and share of abstentions.

    For a model that predicts ``certified_radius``, such as ``mmext.SmoothedClassifier``. ACR alone
    can be raised by giving up on hard images, so look at the curve too.

    Args:
        radii: Where to report the certified accuracy, in pixels of range [0, 1], each >= 0.
        tsv: File for the certificates in the format of Cohen's analysis scripts; None: none. The
            time column is 0: batches share their passes (``mmext certify`` measures it).
        collect_device, prefix: See :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: A radius is negative.

    Example:
        >>> test_evaluator = dict(type='mmext.CertifiedRadius', radii=[0, 0.5, 1.0])
    """

    default_prefix = 'certified'

    def __init__(
        self,
        radii: Sequence[float] = RADII,
        tsv: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if any(radius < 0 for radius in radii):
            raise ValueError(f'radii={list(radii)} must not be negative')
        self.radii = tuple(radii)
        self.tsv = tsv

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep label, prediction and radius of each sample.

        Raises:
            ValueError: A sample has no ``certified_radius``.
        """
        for sample in data_samples:
            if 'certified_radius' not in sample:
                raise ValueError(
                    'CertifiedRadius needs certified_radius in the predictions: wrap the '
                    "classifier in mmext.SmoothedClassifier with task='certify'"
                )
            self.results.append(
                {
                    'idx': int(sample.get('sample_idx', len(self.results))),
                    'label': int(sample['gt_label']),
                    'predict': int(sample['pred_label']),
                    'radius': float(sample['certified_radius']),
                    'seconds': 0.0,
                }
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Summarise; write the TSV."""
        if self.tsv is not None:
            write_tsv(self.tsv, sorted(results, key=lambda row: row['idx']))
        labels, predictions, radii = (
            [row[name] for row in results] for name in ('label', 'predict', 'radius')
        )
        return certified_summary(labels, predictions, radii, self.radii)
