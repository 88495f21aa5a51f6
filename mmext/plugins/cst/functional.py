"""The arithmetic of cycle self-training on plain tensors.

The paper's abstract fixes the cycle and that pseudo-labels are weighted by the distribution
consistency of the two teachers; the formulae below are ours.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

CONSISTENCY_KINDS = ('js', 'exp_kl', 'score', 'none')


def odds_distribution(scores: Tensor, power: float = 2.0) -> Tensor:
    """Turn independent sigmoid scores into a distribution over the classes and background (ours).

    ``p_c ~ (s_c / (1 - s_c)) ** power`` and ``p_background ~ 1``. With ``power=1`` this is the
    probability that exactly class c fires, given at most one does. Focal-loss scores are small and
    their plain normalisation is nearly flat; ``power=2`` sharpens it.

    Args:
        scores: Sigmoid scores, shape (n, C), in [0, 1].
        power: Exponent of the odds, > 0.

    Returns:
        Distributions with background last, shape (n, C + 1).
    """
    log_odds = power * torch.logit(scores.double(), eps=1e-6)
    background = log_odds.new_zeros((len(scores), 1))
    return torch.cat([log_odds, background], dim=1).softmax(dim=1).to(scores.dtype)


def distribution_consistency(p1: Tensor, p2: Tensor, kind: str = 'js') -> Tensor:
    """Agreement of two teachers on the class of each box (the measure is ours).

    - ``'js'``: ``1 - JS(p1, p2) / ln 2`` with the Jensen-Shannon divergence; symmetric.
    - ``'exp_kl'``: ``exp(-KL(p1 || p2))``.
    - ``'score'``: ``min(1, p2[c] / p1[c])``, c the likeliest foreground class of p1: how much of
      the first teacher's belief the second shares.
    - ``'none'``: 1 for every box.

    Args:
        p1: Distributions of the teacher that wrote the boxes, shape (n, C + 1), background last.
        p2: Distributions of the other teacher on the same boxes, shape (n, C + 1).
        kind: One of :data:`CONSISTENCY_KINDS`.

    Returns:
        Consistency in [0, 1], shape (n,); equal distributions give 1.

    Raises:
        ValueError: Unknown ``kind``, or shapes that differ.
    """
    if kind not in CONSISTENCY_KINDS:
        raise ValueError(f'kind={kind!r} is unknown; choose one of {list(CONSISTENCY_KINDS)}')
    if p1.shape != p2.shape or p1.ndim != 2:
        raise ValueError(
            f'p1 and p2 must have one shape (n, C + 1), got {tuple(p1.shape)} and {tuple(p2.shape)}'
        )
    if kind == 'none' or len(p1) == 0:
        return p1.new_ones(len(p1))
    a, b = p1.double(), p2.double()
    if kind == 'score':
        label = a[:, :-1].argmax(dim=1, keepdim=True)
        ratio = b.gather(1, label) / a.gather(1, label).clamp_min(1e-12)
        return ratio.squeeze(1).clamp(0, 1).to(p1.dtype)
    if kind == 'exp_kl':
        return torch.exp(-_kl(a, b)).clamp(0, 1).to(p1.dtype)
    mean = (a + b) / 2
    js = (_kl(a, mean) + _kl(b, mean)) / 2
    return (1 - js / math.log(2)).clamp(0, 1).to(p1.dtype)


def jensen_shannon(p1: Tensor, p2: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, in [0, ln 2]; shapes (n, K), (n, K) -> (n,)."""
    return (1 - distribution_consistency(p1, p2, 'js')) * math.log(2)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    tiny = torch.finfo(p.dtype).tiny
    return (p * (p.clamp_min(tiny).log() - q.clamp_min(tiny).log())).sum(dim=1)


def paired_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of box i with box i; shapes (n, 4), (n, 4) as (x1, y1, x2, y2) -> (n,) in [0, 1]."""
    top_left = torch.maximum(boxes1[:, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, 2:], boxes2[:, 2:])
    overlap = (bottom_right - top_left).clamp_min(0).prod(dim=1)
    area1 = (boxes1[:, 2:] - boxes1[:, :2]).clamp_min(0).prod(dim=1)
    area2 = (boxes2[:, 2:] - boxes2[:, :2]).clamp_min(0).prod(dim=1)
    return overlap / (area1 + area2 - overlap).clamp_min(1e-9)


def cross_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every pair; shapes (n, 4), (m, 4) as (x1, y1, x2, y2) -> (n, m) in [0, 1]."""
    n, m = len(boxes1), len(boxes2)
    return paired_iou(boxes1.repeat_interleave(m, 0), boxes2.repeat(n, 1)).reshape(n, m)


def class_opinion(
    boxes: Tensor, found: tuple[Tensor, Tensor, Tensor], num_classes: int, iou_thr: float = 0.5
) -> tuple[Tensor, Tensor]:
    """What a detector says about given boxes, from its own detections around them (ours).

    The score of a class on a box is the best of the detections of this class that overlap it.
    After non-maximum suppression by class a detector has one detection of each class on an object,
    so nothing has to be known about its head, and no further pass is needed.

    Args:
        boxes: (n, 4) as (x1, y1, x2, y2).
        found: (boxes (m, 4), scores (m,), labels (m,)) of the detector on the image.
        num_classes: Number C of classes; labels are below it.
        iou_thr: Least overlap of a detection with a box, in (0, 1).

    Returns:
        Scores (n, C), 0 where no detection is; and the best detection's box (n, 4), NaN if none.
    """
    their_boxes, scores, labels = found
    match = torch.where(cross_iou(boxes, their_boxes) >= iou_thr, scores, scores.new_zeros(()))
    by_class = scores.new_zeros((len(boxes), num_classes))
    by_class = by_class.scatter_reduce(1, labels.expand(len(boxes), -1), match, 'amax')
    best = boxes.new_full((len(boxes), 4), float('nan'))
    if match.numel():
        score, index = match.max(dim=1)
        best = torch.where(score[:, None] > 0, their_boxes[index], best)
    return by_class, best


def fuse_detections(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor], iou_thr: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Fuse the detections of two detectors class by class (ours).

    Boxes of one class that overlap by at least ``iou_thr`` are paired greedily, best overlap first;
    a pair becomes its score-weighted mean box with the mean score, and a box that only one detector
    found keeps half its score.

    Args:
        first, second: (boxes (n, 4), scores (n,), labels (n,)) of each detector.
        iou_thr: Least overlap of a pair, in (0, 1).

    Returns:
        (boxes, scores, labels) by falling score.
    """
    boxes1, scores1, labels1 = first
    boxes2, scores2, labels2 = second
    iou = cross_iou(boxes1, boxes2)
    iou = torch.where(labels1[:, None] == labels2[None, :], iou, iou.new_full((), -1.0))
    rows: list[int] = []
    columns: list[int] = []
    while iou.numel() and iou.max() >= iou_thr:
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        rows.append(row)
        columns.append(column)
        iou[row] = -1
        iou[:, column] = -1
    w1, w2 = scores1[rows, None], scores2[columns, None]
    total = (w1 + w2).clamp_min(1e-12)
    paired_boxes = boxes1[rows] * (w1 / total) + boxes2[columns] * (w2 / total)
    paired_scores = (scores1[rows] + scores2[columns]) / 2
    alone1 = torch.ones_like(scores1, dtype=torch.bool)
    alone2 = torch.ones_like(scores2, dtype=torch.bool)
    alone1[rows] = False
    alone2[columns] = False
    boxes = torch.cat([paired_boxes, boxes1[alone1], boxes2[alone2]])
    scores = torch.cat([paired_scores, scores1[alone1] / 2, scores2[alone2] / 2])
    labels = torch.cat([labels1[rows], labels1[alone1], labels2[alone2]])
    order = scores.argsort(descending=True)
    return boxes[order], scores[order], labels[order]


def ramp(iteration: int, start: int, length: int) -> float:
    """Linear ramp: 0 before ``start``, 1 from ``start + length`` on; a step if ``length`` is 0."""
    if iteration < start:
        return 0.0
    return 1.0 if length == 0 else min(1.0, (iteration - start + 1) / length)


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, momentum: float, skip_buffers: bool = False
) -> None:
    """``teacher <- (1 - momentum) * teacher + momentum * student``, in place.

    Parameters and BN statistics alike: the student's own statistics are of its last ten or so
    batches and do not fit weights that lag behind (ours). Counters are copied. Where both are
    sharded alike (DTensor), each rank averages what it holds.

    Args:
        teacher, student: Modules of one architecture.
        momentum: Weight of the student, in [0, 1]; 1 copies.
        skip_buffers: Leave the teacher's buffers alone.
    """
    targets = [_held(parameter) for parameter in teacher.parameters()]
    sources = [_held(parameter.detach()) for parameter in student.parameters()]
    if not skip_buffers:
        for target, source in zip(teacher.buffers(), student.buffers(), strict=True):
            if target.is_floating_point():
                targets.append(target)
                sources.append(source)
            else:
                target.copy_(source)
    if momentum == 1:
        torch._foreach_copy_(targets, sources)
    else:
        torch._foreach_lerp_(targets, sources, momentum)


def _held(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, 'to_local') else tensor


@torch.no_grad()
def parameter_distance(first: Iterable[Tensor], second: Iterable[Tensor]) -> Tensor:
    """Relative distance ``||a - b|| / ||a||`` of two parameter lists, a scalar >= 0."""
    a, b = list(first), list(second)
    difference = torch.stack(torch._foreach_norm(torch._foreach_sub(a, b))).norm()
    return difference / torch.stack(torch._foreach_norm(a)).norm().clamp_min(1e-12)
