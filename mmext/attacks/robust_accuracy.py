"""Accuracy on clean and attacked images."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmext.attacks.standard import robustness_warnings
from mmext.registry import METRICS


@METRICS.register_module()
class RobustAccuracy(BaseMetric):
    """Accuracy under every condition of ``mmext.RobustnessTestLoop``, in percent.

    Reports ``clean``, ``<attack>@<strength>``, and for each attack ``<attack>/mean`` and
    ``<attack>/worst`` over clean and all strengths. Under an ordinary test loop it is plain
    accuracy, ``clean``. Warns where gradients mislead, see :func:`.standard.robustness_warnings`.

    Example:
        >>> test_evaluator = dict(type='mmext.RobustAccuracy')
    """

    default_prefix = 'robust'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep which conditions were predicted rightly."""
        for sample in data_samples:
            label = int(sample['gt_label'])
            predicted = sample.get('predicted_under') or {'clean': int(sample['pred_label'])}
            right = {name: value == label for name, value in predicted.items()}
            self.results.append({'right': right, 'signs': sample.get('gradient_signs') or {}})

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Average over the samples, and warn."""
        for warning in warnings_of([row['signs'] for row in results]):
            print_log(f'mmext.RobustAccuracy: {warning}', 'current', logging.WARNING)
        return accuracies([row['right'] for row in results])


def accuracies(rows: Sequence[dict[str, bool]]) -> dict[str, float]:
    """Accuracy of each condition in percent, with mean and worst of each attack.

    Args:
        rows: For each sample, condition -> whether it is predicted rightly; conditions are
            ``clean`` and ``<attack>@<strength>``.
    """
    found = {name: 100 * float(np.mean([row[name] for row in rows])) for name in rows[0]}
    for attack in dict.fromkeys(name.partition('@')[0] for name in found if '@' in name):
        values = [v for k, v in found.items() if k == 'clean' or k.startswith(f'{attack}@')]
        found[f'{attack}/mean'] = float(np.mean(values))
        found[f'{attack}/worst'] = min(values)
    return found


def warnings_of(signs: Sequence[dict]) -> list[str]:
    """Warnings over the samples of an evaluation.

    Args:
        signs: For each sample, ``random`` and ``zero_gradient`` (bool), and for standard attacks
            at the largest strength ``by``, the attack that broke it, and ``stands`` (bool); all
            may be missing.
    """
    count = max(len(signs), 1)
    return robustness_warnings(
        random=any(row.get('random', False) for row in signs),
        zero=sum(row.get('zero_gradient', False) for row in signs) / count,
        by_square=sum(row.get('by') == 'square' for row in signs),
        standing=sum(row.get('stands', False) for row in signs),
    )
