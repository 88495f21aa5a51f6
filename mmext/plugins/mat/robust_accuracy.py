"""Accuracy on clean and attacked images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mmext.registry import METRICS


@METRICS.register_module()
class RobustAccuracy(BaseMetric):
    """Accuracy under every condition of ``mmext.RobustnessTestLoop``, in percent.

    Reports ``clean``, ``<attack>@<strength>``, and for each attack ``<attack>/mean`` and
    ``<attack>/worst`` over clean and all strengths. Under an ordinary test loop it is plain
    accuracy, ``clean``.

    Example:
        >>> test_evaluator = dict(type='mmext.RobustAccuracy')
    """

    default_prefix = 'robust'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep which conditions were predicted rightly."""
        for sample in data_samples:
            label = int(sample['gt_label'])
            predicted = sample.get('predicted_under') or {'clean': int(sample['pred_label'])}
            self.results.append({name: value == label for name, value in predicted.items()})

    def compute_metrics(self, results: list[dict[str, bool]]) -> dict[str, float]:
        """Average over the samples."""
        found = {name: 100 * float(np.mean([row[name] for row in results])) for name in results[0]}
        attacks = dict.fromkeys(name.partition('@')[0] for name in found if '@' in name)
        for attack in attacks:
            values = [v for k, v in found.items() if k == 'clean' or k.startswith(f'{attack}@')]
            found[f'{attack}/mean'] = float(np.mean(values))
            found[f'{attack}/worst'] = min(values)
        return found
