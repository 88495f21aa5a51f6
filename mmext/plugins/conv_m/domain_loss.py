"""What the adaptation losses share: their inputs, weight and schedule."""

from typing import NamedTuple

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from torch import Tensor

from .functional import SCHEDULES, ramp


class Domain(NamedTuple):
    """What a loss sees of the samples of one domain; there are no labels in it.

    Attributes:
        features: What the head gets, ``(N, D)``.
        logits: What the head gives, ``(N, K)``.
    """

    features: Tensor
    logits: Tensor


def training_progress() -> float:
    """Share of the running training that is done, in [0, 1]; 1 outside of MMEngine's Runner."""
    hub = MessageHub.get_current_instance()
    total = hub.get_info('max_iters')
    return min(hub.get_info('iter', 0) / total, 1.0) if total else 1.0


class DomainLoss(BaseModule):
    """Base of the losses of ``mmext.DomainAdaptationClassifier``.

    Args:
        weight: Of the loss, >= 0 and finite.
        schedule: Factor during the training, 'constant', 'linear' or 'sigmoid', see
            :func:`.functional.ramp`.
        alpha: Steepness of 'sigmoid', > 0.
        warmup: Share of the training in which the factor rises, in (0, 1].
        begin: Share of the training at which it starts to rise, 0 before, in [0, 1).
        init_cfg: MMEngine's initialisation.

    Raises:
        ValueError: An argument is out of range.
    """

    #: Name in the log where the config gives none.
    title = 'adaptation'

    def __init__(
        self,
        weight: float = 1.0,
        schedule: str = 'constant',
        alpha: float = 10.0,
        warmup: float = 1.0,
        begin: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 <= weight < float('inf'):
            raise ValueError(f'weight={weight} must be a finite number >= 0')
        if schedule not in SCHEDULES:
            raise ValueError(f'schedule={schedule!r} must be one of {", ".join(SCHEDULES)}')
        if not alpha > 0:
            raise ValueError(f'alpha={alpha} must be above 0')
        if not 0 < warmup <= 1:
            raise ValueError(f'warmup={warmup} must be in (0, 1], a share of the training')
        if not 0 <= begin < 1:
            raise ValueError(f'begin={begin} must be in [0, 1), a share of the training')
        self.weight = weight
        self.schedule = schedule
        self.alpha = alpha
        self.warmup = warmup
        self.begin = begin

    def factor(self, progress: float) -> float:
        """Factor of the schedule, in [0, 1]."""
        return ramp(progress, self.schedule, self.alpha, self.warmup, self.begin)

    def forward(self, source: Domain, target: Domain, progress: float) -> dict[str, Tensor]:
        """Return the weighted loss under ``loss`` and what is to be logged under other names.

        Runs in full precision under AMP, too.

        Args:
            source: M samples.
            target: N samples.
            progress: See :func:`training_progress`.
        """
        with torch.autocast(source.features.device.type, enabled=False):
            return self.compute(
                Domain(*(tensor.float() for tensor in source)),
                Domain(*(tensor.float() for tensor in target)),
                progress,
            )

    def compute(self, source: Domain, target: Domain, progress: float) -> dict[str, Tensor]:
        """What a subclass computes in :meth:`forward`."""
        raise NotImplementedError

    def weighted(self, value: Tensor, progress: float) -> Tensor:
        """Return ``value`` times weight and schedule."""
        return self.weight * self.factor(progress) * value
