"""Choosing a model without target labels."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from mmext.registry import METRICS

from .functional import entropy, soft_neighbourhood_density


@METRICS.register_module()
class LabelFreeSelection(BaseMetric):
    """Scores of a model on target images, without their labels.

    ``select/entropy``: mean entropy of the predictions in nats, less is better; a model that calls
    everything one class wins it. ``select/information``: entropy of the mean prediction minus that
    mean, more is better, which sees such a collapse. ``select/snd``: soft neighbourhood density
    (arXiv 2108.10860), more is better.

    Args:
        temperature: Of SND (its authors: 0.05).
        collect_device: As in MMEngine.
        prefix: As in MMEngine; default 'select'.

    Raises:
        ValueError: ``temperature`` is not above 0; in evaluation: fewer than two predictions.

    Example:
        >>> val_evaluator = [dict(type='Accuracy'), dict(type='mmext.LabelFreeSelection')]

    Cost: O(N^2 K) with N images and K classes.
    """

    default_prefix = 'select'

    def __init__(
        self, temperature: float = 0.05, collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not temperature > 0:
            raise ValueError(f'temperature={temperature} must be above 0')
        self.temperature = temperature

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the class probabilities of a batch."""
        self.results += [sample['pred_score'].detach().cpu() for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Scores of all predictions."""
        if len(results) < 2:
            raise ValueError(
                f'LabelFreeSelection compares predictions with each other, got {len(results)}'
            )
        scores = torch.stack(results).double()
        logs = scores.clamp(min=1e-12).log()
        single = float(entropy(logs).mean())
        mean = float(entropy(scores.mean(0, keepdim=True).clamp(min=1e-12).log()))
        return {
            'entropy': single,
            'information': mean - single,
            'snd': float(soft_neighbourhood_density(scores, self.temperature)),
        }
