"""Boxes in float32 under autocast.

Convolutions in bfloat16 are good enough to find an object. Its coordinates are not: above 256 px
bfloat16 counts in steps of 2 px and more, and MMDetection makes priors in the dtype of the scores.
"""

from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn


class Float32Head:
    """Mixin of a dense head: what it predicts is decoded, and learned from, in float32."""

    def loss_by_feat(self, *args, **kwargs):
        """As the head."""
        return super().loss_by_feat(*map(_single, args), **kwargs)  # type: ignore[misc]

    def predict_by_feat(self, *args, **kwargs):
        """As the head."""
        return super().predict_by_feat(*map(_single, args), **kwargs)  # type: ignore[misc]


def boxes_in_float32(detector: nn.Module) -> None:
    """Let the dense heads of a detector decode in float32 under autocast, in place."""
    for head in detector.modules():
        if isinstance(head, BaseDenseHead) and not isinstance(head, Float32Head):
            own = type(head)
            head.__class__ = type(own.__name__, (Float32Head, own), {})


def _single(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.half, torch.bfloat16) else value
    if isinstance(value, list | tuple):
        return type(value)(map(_single, value))
    return value
