"""Guided CW: CW's objective with start, steps and constant taken from the gradient (ours).

With the margin ``f`` at the clean image and its gradient ``g``, a linear model has its boundary
``d = f / ||g||`` away, in the direction of ``-g``, and CW's objective has its least adversarial
image there for every constant above ``2 d / ||g||``. The search begins at that point and with twice
that constant; later constants follow in the same way from the nearest adversarial image so far.
Steps are shares of its distance. So nothing depends on the units of images and logits, and nothing
is tuned. Adam moves the pixels themselves, which are clamped to the bounds: in CW's space of tanh
a long step ends where the gradient is lost.
"""

import math
from functools import partial

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn
from mmext.attacks.gradient_attacks import (
    AttackResult,
    distance,
    distance_direction,
    expand,
    input_gradient,
    l2_norm,
)
from mmext.attacks.minimum_norm import Best, feasible, inside, search, worst_norm

_FIRST_SHARE, _LAST_SHARE = 0.25, 0.02  # steps over the distance, from the first to the last
_PENALTY = 2  # constants over the least that suffices on a linear model
_GROWTH = 10  # of a constant that failed, as in CW
_BETA1, _BETA2 = 0.9, 0.999  # Adam's own defaults


def guided(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    search_steps: int,
    lr: float | None,
    initial_const: float | None,
    targeted: bool,
    kappa: float,
    bounds: tuple[float, float],
    mask: Tensor | None,
) -> AttackResult:
    """Search as :func:`.functional.cw_l2` says, which checks the arguments.

    Every constant continues where the last one ended. Each sample takes ``steps * search_steps``
    gradients, of which the first is the guide.
    """
    total = steps * search_steps
    tiny = torch.finfo(x.dtype).tiny

    def attack(images: Tensor, labels: Tensor, free: Tensor | None, best: Best) -> None:
        downhill = partial(distance_direction, y=labels, targeted=targeted)
        delta, adam = torch.zeros_like(images), _Adam(images)
        found = torch.zeros_like(labels, dtype=torch.bool)
        reach = const = away = images.new_zeros(len(images))
        for step in range(total):
            logits, slope = input_gradient(logits_fn, images + delta, downhill)
            slope = slope if free is None else slope * free
            away = distance(logits, labels, targeted, kappa)
            best.see(images + delta, away < 0, step)
            found = found | (away < 0)
            usable = feasible(slope, images + delta, bounds)
            length = l2_norm(usable).clamp_min(tiny)
            if step == 0:
                reach = torch.minimum(away / length, worst_norm(images, bounds))
                const = 2 * _PENALTY * reach / length
                const = const if initial_const is None else torch.full_like(const, initial_const)
                delta = inside(images, usable * expand(-reach / length, usable), bounds, free)
                continue
            far = torch.maximum(reach, l2_norm(delta))
            near = torch.where(best.size.isfinite(), best.size, far)
            if step % steps == 0:
                const = torch.where(found, 2 * _PENALTY * near / length, _GROWTH * const)
                found = torch.zeros_like(found)
            move = adam.direction(2 * delta + expand(const * (away > 0), slope) * slope)
            if lr is None:
                size = _share(step / total) * near / l2_norm(move).clamp_min(tiny)
            else:
                # Where a pixel is in the middle of its range, what CW's rate does to it.
                size = torch.full_like(near, lr * (bounds[1] - bounds[0]) / 2)
            delta = inside(images, delta - expand(size, move) * move, bounds, free)

    return search(attack, logits_fn, x, y, total, targeted, kappa, bounds, mask)


def _share(done: float) -> float:
    """Length of a step over the distance, falling by a cosine."""
    return _LAST_SHARE + (_FIRST_SHARE - _LAST_SHARE) * (1 + math.cos(math.pi * done)) / 2


class _Adam:
    """Adam's steps at rate 1."""

    def __init__(self, like: Tensor) -> None:
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.age = 0

    def direction(self, gradient: Tensor) -> Tensor:
        self.age += 1
        self.mean.lerp_(gradient, 1 - _BETA1)
        self.square.lerp_(gradient.square(), 1 - _BETA2)
        size = (self.square / (1 - _BETA2**self.age)).sqrt_()
        mean = self.mean / (1 - _BETA1**self.age)
        return mean / size.clamp_min_(torch.finfo(gradient.dtype).tiny)
