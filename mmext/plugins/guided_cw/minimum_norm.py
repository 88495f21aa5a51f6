"""DDN and FMN: attacks of least L2 norm without a constant to search, to compare with.

Both came after CW-L2 and need far fewer gradients; a claim for a variant of CW means little without
them. Written from the papers; tests compare each sample with adv-lib's.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn, check_logits
from mmext.attacks.gradient_attacks import (
    AttackResult,
    check_images,
    distance,
    distance_direction,
    entropy_direction,
    expand,
    input_gradient,
    l2_norm,
)

_TINY = 1e-12


def ddn(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    gamma: float = 0.05,
    init_norm: float = 1.0,
    targeted: bool = False,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Decoupled direction and norm (arXiv 1811.09600).

    The direction follows the unit gradient of the cross-entropy with a step that falls from 1 to
    0.01 (cosine); the norm shrinks by ``1 - gamma`` after an adversarial image and grows by
    ``1 + gamma`` after another. Without the paper's rounding to 256 levels.

    Args:
        logits_fn, x, y, targeted, bounds, mask: As for :func:`..functional.cw_l2`.
        steps: Gradients per sample, >= 1 (paper: 100, 300, 1000).
        gamma: Change of the norm per step, in (0, 1) (paper: 0.05).
        init_norm: First norm in units of ``bounds``, > 0 (paper: 1).

    Returns:
        Result with ``steps`` (+ 1 clean) forward and ``steps`` backward passes a sample.

    Raises:
        ValueError: A number outside its range, or wrong images or logits.
    """
    if not 0 < gamma < 1 or not init_norm > 0:
        raise ValueError(f'gamma={gamma} must be in (0, 1) and init_norm={init_norm} above 0')

    def attack(images: Tensor, labels: Tensor, free: Tensor | None, best: '_Best') -> None:
        delta = torch.zeros_like(images)
        norm = images.new_full((len(images),), init_norm)
        worst = _worst_norm(images, bounds)
        for step in range(steps):
            uphill = partial(entropy_direction, y=labels, targeted=targeted)
            logits, gradient = input_gradient(logits_fn, images + delta, uphill)
            adversarial = distance(logits, labels, targeted) < 0
            best.see(images + delta, adversarial, step)
            gradient = gradient if free is None else gradient * free
            rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
            delta = delta + rate * gradient / expand(l2_norm(gradient), delta).clamp_min(_TINY)
            norm = torch.minimum(norm * torch.where(adversarial, 1 - gamma, 1 + gamma), worst)
            delta = delta * expand(norm / l2_norm(delta).clamp_min(_TINY), delta)
            delta = _inside(images, delta, bounds, free)

    return _run(attack, logits_fn, x, y, steps, targeted, bounds, mask)


def fmn(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    alpha: float = 1.0,
    gamma: float = 0.05,
    targeted: bool = False,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Fast minimum norm, L2 (arXiv 2102.12827).

    Steps along the unit gradient of the margin, projected on a ball whose radius is first the
    linear estimate of the boundary's distance and then, once adversarial, shrinks and grows by
    ``gamma``; step and ``gamma`` fall by cosine.

    Ours: pixels at a bound do not count in the gradient that would push them over it. Otherwise
    the linear estimate falls short on saturated images, and half of the digits are never reached
    (with adv-lib as well).

    Args:
        logits_fn, x, y, targeted, bounds, mask: As for :func:`..functional.cw_l2`.
        steps: Gradients per sample, >= 1 (paper: up to 1000).
        alpha: First step, > 0; the last is a hundredth (paper: 1).
        gamma: First change of the radius, in (0, 1); the last is 0.001 (paper: 0.05).

    Returns:
        Result with ``steps`` (+ 1 clean) forward and ``steps`` backward passes a sample.

    Raises:
        ValueError: A number outside its range, or wrong images or logits.
    """
    if not 0 < gamma < 1 or not alpha > 0:
        raise ValueError(f'gamma={gamma} must be in (0, 1) and alpha={alpha} above 0')

    def attack(images: Tensor, labels: Tensor, free: Tensor | None, best: '_Best') -> None:
        delta = torch.zeros_like(images)
        worst = _worst_norm(images, bounds)
        radius = torch.full_like(worst, torch.inf)
        for step in range(steps):
            share = (1 + math.cos(math.pi * step / steps)) / 2
            rate = alpha * (0.01 + 0.99 * share)
            change = 0.001 + (gamma - 0.001) * share
            norm = l2_norm(delta)
            downhill = partial(distance_direction, y=labels, targeted=targeted)
            logits, gradient = input_gradient(logits_fn, images + delta, downhill)
            away = distance(logits, labels, targeted)
            adversarial = away < 0
            best.see(images + delta, adversarial, step)
            gradient = gradient if free is None else gradient * free
            gradient = _feasible(gradient, images + delta, bounds)
            slope = l2_norm(gradient).clamp_min(_TINY)
            outside = torch.where(best.first >= 0, radius * (1 + change), norm + away.abs() / slope)
            nearest = torch.minimum(best.l2, worst)
            radius = torch.where(
                adversarial, torch.minimum(radius * (1 - change), nearest), outside
            )
            radius = torch.minimum(radius, worst)
            delta = delta - rate * gradient / expand(slope, delta)
            shrink = (radius / l2_norm(delta).clamp_min(_TINY)).clamp_max(1)
            delta = _inside(images, delta * expand(shrink, delta), bounds, free)

    return _run(attack, logits_fn, x, y, steps, targeted, bounds, mask)


class _Best:
    """Nearest adversarial image of each sample so far."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.best = images
        self.l2 = images.new_full((len(images),), torch.inf)
        self.first = torch.full((len(images),), -1, device=images.device)

    def see(self, x_adv: Tensor, adversarial: Tensor, step: int) -> None:
        l2 = l2_norm(x_adv - self.images)
        better = adversarial & (l2 < self.l2)
        self.l2 = torch.where(better, l2, self.l2)
        self.best = torch.where(expand(better, x_adv), x_adv, self.best)
        self.first = torch.where(adversarial & (self.first < 0), step, self.first)


def _worst_norm(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    return l2_norm(torch.maximum(x - bounds[0], bounds[1] - x))


def _inside(x: Tensor, delta: Tensor, bounds: tuple[float, float], free: Tensor | None) -> Tensor:
    delta = (x + delta).clamp(*bounds) - x
    return delta if free is None else delta * free


def _feasible(gradient: Tensor, images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Gradient of a descent without what leads out of the bounds."""
    over = (images <= bounds[0]) & (gradient > 0) | (images >= bounds[1]) & (gradient < 0)
    return gradient.masked_fill(over, 0)


def _run(
    attack: Callable[[Tensor, Tensor, Tensor | None, _Best], None],
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    steps: int,
    targeted: bool,
    bounds: tuple[float, float],
    mask: Tensor | None,
) -> AttackResult:
    """Attack what is not misclassified already, and collect the result."""
    if steps < 1:
        raise ValueError(f'steps={steps} must be at least 1')
    check_images(x, y, bounds, mask)
    with torch.no_grad():
        already = distance(check_logits(logits_fn(x)), y, targeted) < 0
    rows = (~already).nonzero().squeeze(1)
    x_adv, first = x.clone(), torch.where(already, 0, -1)
    if len(rows):
        free = None if mask is None else mask.expand(x.shape)[rows]
        best = _Best(x[rows])
        attack(x[rows], y[rows], free, best)
        x_adv[rows] = best.best.clamp(*bounds) if free is None else best.best
        first[rows] = best.first
    l2 = torch.where(first >= 0, l2_norm(x_adv - x), torch.inf)
    passes = len(rows) * steps
    return AttackResult(x_adv, first >= 0, l2, len(x) + passes, passes, first)
