"""The weight of a pseudo-box as a configurable component."""

from torch import Tensor

from mmext.registry import TASK_UTILS

from .functional import CONSISTENCY_KINDS, distribution_consistency, paired_iou


@TASK_UTILS.register_module()
class DistributionConsistency:
    """Weight of each pseudo-box from the agreement of the two teachers (the formula is ours).

    ``w = floor + (1 - floor) * (c * b) ** (1 / temperature)`` with the class term c of
    :func:`~mmext.plugins.cst.functional.distribution_consistency` and, with ``box_term``, the IoU b
    of the boxes that the two teachers regress there. For ``kind='exp_kl'`` this is
    ``exp(-KL / temperature)``.

    Args:
        kind: ``'js'``, ``'exp_kl'``, ``'score'`` or ``'none'`` (every weight 1; no head is asked to
            take weights).
        box_term: Multiply by the agreement of the two regressed boxes.
        floor: Least weight, in [0, 1].
        temperature: Below 1 sharpens, above 1 flattens, > 0.
        normalize: Scale the weights of the pseudo-boxes of a batch to mean 1, so that reweighting
            shifts emphasis between boxes without weakening the unsupervised loss; weights may
            exceed 1. Ignore regions do not count.

    Raises:
        ValueError: Unknown ``kind`` or a number outside its range.

    Example:
        >>> consistency = dict(type='mmext.DistributionConsistency', kind='js', floor=0.1)
    """

    def __init__(
        self,
        kind: str = 'js',
        box_term: bool = False,
        floor: float = 0.0,
        temperature: float = 1.0,
        normalize: bool = False,
    ) -> None:
        if kind not in CONSISTENCY_KINDS:
            raise ValueError(
                f'consistency kind={kind!r} is unknown; choose one of {list(CONSISTENCY_KINDS)}'
            )
        if not 0 <= floor <= 1:
            raise ValueError(f'consistency floor={floor} must be in [0, 1]')
        if not temperature > 0:
            raise ValueError(f'consistency temperature={temperature} must be above 0')
        self.kind = kind
        self.box_term = box_term
        self.floor = floor
        self.temperature = temperature
        self.normalize = normalize
        #: Share of the reweighting in force, in [0, 1]; moved by ``DistributionConsistencyHook``.
        self.share = 1.0

    @property
    def needs_weights(self) -> bool:
        """Whether boxes get weights other than 1."""
        return self.kind != 'none' or self.box_term

    def __call__(
        self,
        p1: Tensor,
        p2: Tensor,
        boxes1: Tensor,
        boxes2: Tensor,
        used: Tensor | None = None,
    ) -> Tensor:
        """Weigh boxes.

        Args:
            p1, p2: Class distributions of the writing and of the other teacher, shape (n, C + 1).
            boxes1, boxes2: Boxes the two regress there, shape (n, 4) as (x1, y1, x2, y2).
            used: Flags of the boxes that are pseudo-labels, shape (n,), for ``normalize``; None:
                all are.

        Returns:
            Weights, shape (n,), in [floor, 1] unless ``normalize``.
        """
        agreement = distribution_consistency(p1, p2, self.kind)
        if self.box_term:
            agreement = agreement * paired_iou(boxes1, boxes2)
        weights = self.floor + (1 - self.floor) * agreement ** (1 / self.temperature)
        # A diverged teacher has no opinion; what it cannot confirm teaches nothing.
        weights = weights.nan_to_num(nan=0.0)
        counted = weights if used is None else weights[used]
        if self.normalize and len(counted):
            weights = weights / counted.mean().clamp_min(1e-6)
        return 1 + self.share * (weights - 1)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(kind={self.kind!r}, box_term={self.box_term}, '
            f'floor={self.floor}, temperature={self.temperature}, normalize={self.normalize})'
        )
