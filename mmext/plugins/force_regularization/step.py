"""The force in a training step; imports nothing of MMEngine."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from mmext.engine.shards import own_rows, shard_of, whole

from .functional import FORCE_KINDS, force

MODES = ('fixed', 'adaptive')


def check_force(strength: float, kind: str, mode: str) -> None:
    """Raise ValueError where one of them is out of its range."""
    if not math.isfinite(strength):
        raise ValueError(f'strength={strength} must be a finite number')
    if kind not in FORCE_KINDS:
        raise ValueError(f'kind={kind!r} is unknown; choose one of {list(FORCE_KINDS)}')
    if mode not in MODES:
        raise ValueError(f'mode={mode!r} is unknown; choose one of {list(MODES)}')


def is_decoupled(optimizer: Optimizer, mode: str) -> bool:
    """Whether the force goes to the weights: where the optimizer would rescale it."""
    return mode == 'fixed' and not isinstance(optimizer, SGD)


@torch.no_grad()
def add_force_(
    weight: nn.Parameter,
    layer: nn.Module,
    group: Mapping[str, Any],
    strength: float,
    kind: str = 'l1',
    mode: str = 'fixed',
    decoupled: bool = False,
) -> None:
    """Add the force of one layer between backward and step; nothing where it has no gradient.

    Args:
        weight: Of ``layer``; on shards every rank must call it.
        layer: Convolution or linear layer.
        group: Parameter group of the weight: ``lr`` if decoupled, else ``maximize``, if any.
        strength, kind, mode: As in
            :class:`~mmext.plugins.force_regularization.hook.ForceRegularizationHook`.
        decoupled: ``W <- W + lr strength dW``; else ``strength dW`` is subtracted from the
            gradient.
    """
    if weight.grad is None:
        return
    pull = force(whole(weight), kind, getattr(layer, 'groups', 1))
    if mode == 'adaptive':
        strength = strength * whole(weight.grad).norm() / pull.norm().clamp_min(1e-12)
    if decoupled:
        shard_of(weight).add_(group['lr'] * strength * own_rows(pull, weight))
    else:
        # SGD(maximize=True) climbs along the gradient.
        sign = 1 if group.get('maximize') else -1
        shard_of(weight.grad).add_(sign * strength * own_rows(pull, weight))
