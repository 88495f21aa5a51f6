"""The weight of a pseudo-box as a configurable component."""

import torch
from torch import Tensor

from mmext.registry import TASK_UTILS

from .functional import CONSISTENCY_KINDS, distribution_consistency

#: What happens to a box on whose class the teachers disagree.
DISAGREEMENTS = ('weigh', 'ignore', 'relabel', 'sample')
#: What the regression of a box is weighted by.
BOX_WEIGHTS = ('class', 'iou', 'one')


@TASK_UTILS.register_module()
class DistributionConsistency:
    """Weight of each pseudo-box from the agreement of the two teachers (the formula is ours).

    ``w = floor + (1 - floor) * c ** (1 / temperature)`` with c of
    :func:`~mmext.plugins.cst.functional.distribution_consistency`, divided by its mean over the
    pseudo-boxes of the batch: the sum of the weights is the number of boxes, which the losses are
    averaged over, so reweighting shifts emphasis between boxes and never weakens the loss. For
    ``kind='exp_kl'`` the power is ``exp(-KL / temperature)``.

    Args:
        kind: ``'js'``, ``'exp_kl'``, ``'score'`` or ``'none'`` (every weight 1).
        floor: Least weight before the division, in [0, 1].
        temperature: Below 1 sharpens, above 1 flattens, > 0.
        disagreement: Of a box to which the other teacher would give another class, or none:
            ``'weigh'`` (nothing but its weight), ``'ignore'`` (neither object nor background),
            ``'relabel'`` (the likeliest class of the mean of both distributions) or ``'sample'`` (a
            class drawn from this mean: soft targets on average, for any loss).
        boxes: The regression of a box is weighted by the same weight (``'class'``), by the IoU of
            the boxes that the two teachers find there (``'iou'``), or not (``'one'``).

    Raises:
        ValueError: An unknown name or a number outside its range.

    Example:
        >>> consistency = dict(type='mmext.DistributionConsistency', kind='js', floor=0.1)
    """

    def __init__(
        self,
        kind: str = 'js',
        floor: float = 0.0,
        temperature: float = 1.0,
        disagreement: str = 'weigh',
        boxes: str = 'class',
    ) -> None:
        for name, value, known in (
            ('kind', kind, CONSISTENCY_KINDS), ('disagreement', disagreement, DISAGREEMENTS),
            ('boxes', boxes, BOX_WEIGHTS),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(
                    f'consistency {name}={value!r} is unknown; choose one of {list(known)}'
                )
        if not 0 <= floor <= 1:
            raise ValueError(f'consistency floor={floor} must be in [0, 1]')
        if not temperature > 0:
            raise ValueError(f'consistency temperature={temperature} must be above 0')
        self.kind = kind
        self.floor = floor
        self.temperature = temperature
        self.disagreement = disagreement
        self.boxes = boxes
        #: Share of the reweighting in force, in [0, 1]; moved by ``DistributionConsistencyHook``.
        self.share = 1.0

    @property
    def needs_weights(self) -> bool:
        """Whether boxes get weights other than 1."""
        return self.kind != 'none' or self.disagreement != 'weigh' or self.boxes == 'iou'

    def __call__(self, p1: Tensor, p2: Tensor, used: Tensor | None = None) -> Tensor:
        """Weigh the classes of boxes.

        Args:
            p1, p2: Class distributions of the writing and of the other teacher, shape (n, C + 1),
                background last.
            used: Flags of the boxes that are pseudo-labels, shape (n,), which the weights are
                averaged over; None: all are.

        Returns:
            Weights, shape (n,), >= 0, of mean 1 over what is used.
        """
        agreement = distribution_consistency(p1, p2, self.kind)
        weights = self.floor + (1 - self.floor) * agreement ** (1 / self.temperature)
        # A diverged teacher has no opinion; what it cannot confirm teaches nothing.
        weights = weights.nan_to_num(nan=0.0)
        counted = weights if used is None else weights[used]
        if len(counted):
            weights = weights / counted.mean().clamp_min(1e-6)
        return 1 + self.share * (weights - 1)

    def settle(self, labels: Tensor, p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor]:
        """Decide about boxes on whose class the teachers disagree.

        Args:
            labels: Classes by the writing teacher, shape (n,).
            p1, p2: As for the weights.

        Returns:
            Classes, shape (n,), and flags of the boxes to ignore, shape (n,).
        """
        doubtful = p2.argmax(dim=1) != labels
        nobody = torch.zeros_like(doubtful)
        if self.disagreement == 'weigh' or self.share == 0 or not len(labels):
            return labels, nobody
        if self.disagreement == 'ignore':
            return labels, doubtful
        mean = ((p1 + p2) / 2)[:, :-1]
        if self.disagreement == 'relabel':
            return torch.where(doubtful, mean.argmax(dim=1), labels), nobody
        return torch.multinomial(mean + 1e-12, 1).squeeze(1), nobody

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(kind={self.kind!r}, floor={self.floor}, '
            f'temperature={self.temperature}, disagreement={self.disagreement!r}, '
            f'boxes={self.boxes!r})'
        )
