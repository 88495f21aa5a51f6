"""Invariance across domains."""

import torch
from mmengine.model.weight_init import constant_init
from torch import Tensor, nn

from mmext.registry import MODELS

from .domain_loss import Domain, DomainLoss
from .functional import domain_cross_entropy, reverse_gradient


@MODELS.register_module()
class DomainAdversarialLoss(DomainLoss):
    """Features that a domain classifier cannot tell apart (DANN, arXiv 1505.07818).

    The classifier, two hidden layers, learns at full speed from the beginning; the schedule scales
    the gradient that is reversed on its way to the features.

    Args:
        in_channels: Width of the features; ``mmext.DomainAdaptationClassifier`` knows it.
        hidden_channels: Width of the hidden layers (TLLib: 1024).
        weight: Of the whole loss.
        schedule: Of the reversed gradient, see :func:`.functional.ramp` (DANN: 'sigmoid').
        alpha: See :func:`.functional.ramp` (DANN: 10).
        warmup: See :func:`.functional.ramp`.
        begin: See :func:`.functional.ramp`.
        init_cfg: MMEngine's initialisation.

    Raises:
        ValueError: An argument is out of range, or the features have another width.

    Example:
        >>> da_losses = dict(
        ...     adversarial=dict(type='mmext.DomainAdversarialLoss', in_channels=256))
    """

    title = 'adversarial'

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 256,
        weight: float = 1.0,
        schedule: str = 'sigmoid',
        alpha: float = 10.0,
        warmup: float = 1.0,
        begin: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, schedule, alpha, warmup, begin, init_cfg)
        self.in_channels = in_channels
        self.classifier = nn.Sequential(
            nn.Linear(in_channels, hidden_channels),
            nn.ReLU(),
            nn.Linear(hidden_channels, hidden_channels),
            nn.ReLU(),
            nn.Linear(hidden_channels, 1),
        )
        # Undecided at first.
        constant_init(self.classifier[-1], 0)

    def compute(self, source: Domain, target: Domain, progress: float) -> dict[str, Tensor]:
        """Loss, and the share of samples (%) whose domain is recognised."""
        width = source.features.shape[1]
        if width != self.in_channels:
            raise ValueError(
                f'DomainAdversarialLoss: in_channels={self.in_channels}, the features of the model '
                f'have {width}'
            )
        factor = self.factor(progress)
        features = torch.cat([source.features, target.features])
        logits = self.classifier(reverse_gradient(features, factor)).squeeze(1)
        of_source, of_target = logits.split([len(source.features), len(target.features)])
        right = ((of_source > 0).float().mean() + (of_target <= 0).float().mean()) / 2
        return {
            'loss': self.weight * domain_cross_entropy(of_source, of_target),
            'domain_accuracy': 100 * right.detach(),
            'reversal': right.new_tensor(factor),
        }
