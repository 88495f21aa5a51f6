"""DDN and FMN: attacks of least norm without a constant to search.

Both came after CW-L2 and need far fewer gradients. Written from the papers; tests compare each
sample with adv-lib's.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn, check_logits
from mmext.attacks.gradient_attacks import (
    NORMS,
    AttackResult,
    check_images,
    distance,
    distance_direction,
    entropy_direction,
    expand,
    input_gradient,
    l2_norm,
    norm_of,
    project,
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
        logits_fn, x, y, targeted, bounds, mask: As for :func:`.gradient_attacks.pgd`.
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

    def attack(images: Tensor, labels: Tensor, free: Tensor | None, best: 'Best') -> None:
        delta = torch.zeros_like(images)
        norm = images.new_full((len(images),), init_norm)
        worst = worst_norm(images, bounds)
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
            delta = inside(images, delta, bounds, free)

    return search(attack, logits_fn, x, y, steps, targeted, 0, bounds, mask)


def fmn(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    alpha: float = 1.0,
    gamma: float = 0.05,
    norm: str = 'l2',
    targeted: bool = False,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Fast minimum norm (arXiv 2102.12827).

    Steps along the unit gradient of the margin, projected on a ball whose radius is first the
    linear estimate of the boundary's distance and then, once adversarial, shrinks and grows by
    ``gamma``; step and ``gamma`` fall by cosine.

    Ours: pixels at a bound do not count in the gradient that would push them over it. Otherwise
    the linear estimate falls short on saturated images, and half of the digits are never reached
    (with adv-lib as well). The estimate is overshot by a thousandth, for on a linear piece of the
    network it ends on the boundary, where nothing is adversarial yet.

    Args:
        logits_fn, x, y, targeted, bounds, mask: As for :func:`.gradient_attacks.pgd`.
        steps: Gradients per sample, >= 1 (paper: up to 1000).
        alpha: First step, > 0; the last is a hundredth (paper: 1).
        gamma: First change of the radius, in (0, 1); the last is 0.001 (paper: 0.05).
        norm: 'l2' or 'linf', the norm to make small.

    Returns:
        Result with ``steps`` (+ 1 clean) forward and ``steps`` backward passes a sample.

    Raises:
        ValueError: A number outside its range, or wrong images or logits.
    """
    if not 0 < gamma < 1 or not alpha > 0:
        raise ValueError(f'gamma={gamma} must be in (0, 1) and alpha={alpha} above 0')
    if norm not in NORMS:
        raise ValueError(f'norm={norm!r} must be one of {", ".join(NORMS)}')

    def attack(images: Tensor, labels: Tensor, free: Tensor | None, best: 'Best') -> None:
        delta = torch.zeros_like(images)
        worst = worst_norm(images, bounds, norm)
        radius = torch.full_like(worst, torch.inf)
        for step in range(steps):
            share = (1 + math.cos(math.pi * step / steps)) / 2
            rate = alpha * (0.01 + 0.99 * share)
            change = 0.001 + (gamma - 0.001) * share
            downhill = partial(distance_direction, y=labels, targeted=targeted)
            logits, gradient = input_gradient(logits_fn, images + delta, downhill)
            away = distance(logits, labels, targeted)
            adversarial = away < 0
            best.see(images + delta, adversarial, step)
            gradient = gradient if free is None else gradient * free
            gradient = feasible(gradient, images + delta, bounds)
            # The margin falls fastest by the dual norm of its gradient.
            slope = gradient.flatten(1).norm(1 if norm == 'linf' else 2, dim=1).clamp_min(_TINY)
            boundary = norm_of(delta, norm) + 1.001 * away.abs() / slope
            outside = torch.where(best.first >= 0, radius * (1 + change), boundary)
            nearest = torch.minimum(best.size, worst)
            radius = torch.where(
                adversarial, torch.minimum(radius * (1 - change), nearest), outside
            )
            radius = torch.minimum(radius, worst)
            delta = delta - rate * gradient / expand(l2_norm(gradient).clamp_min(_TINY), delta)
            delta = inside(images, project(delta, expand(radius, delta), norm), bounds, free)

    return search(attack, logits_fn, x, y, steps, targeted, 0, bounds, mask, norm)


class Best:
    """Nearest adversarial image of each sample so far, and its distance."""

    def __init__(self, images: Tensor, norm: str = 'l2') -> None:
        self.images, self.norm = images, norm
        self.best = images
        self.size = images.new_full((len(images),), torch.inf)
        self.first = torch.full((len(images),), -1, device=images.device)

    def see(self, x_adv: Tensor, adversarial: Tensor, step: int) -> None:
        """Take what is ``adversarial`` and nearer than all before."""
        size = norm_of(x_adv - self.images, self.norm)
        better = adversarial & (size < self.size)
        self.size = torch.where(better, size, self.size)
        self.best = torch.where(expand(better, x_adv), x_adv, self.best)
        self.first = torch.where(adversarial & (self.first < 0), step, self.first)


def worst_norm(x: Tensor, bounds: tuple[float, float], norm: str = 'l2') -> Tensor:
    """Distance of each sample from the farthest image in ``bounds``, (N,)."""
    return norm_of(torch.maximum(x - bounds[0], bounds[1] - x), norm)


def inside(x: Tensor, delta: Tensor, bounds: tuple[float, float], free: Tensor | None) -> Tensor:
    """``delta`` without what leaves ``bounds`` or what may not change."""
    delta = (x + delta).clamp(*bounds) - x
    return delta if free is None else delta * free


def feasible(gradient: Tensor, images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Gradient of a descent without what leads out of the bounds."""
    over = (images <= bounds[0]) & (gradient > 0) | (images >= bounds[1]) & (gradient < 0)
    return gradient.masked_fill(over, 0)


def search(
    attack: Callable[[Tensor, Tensor, Tensor | None, Best], None],
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    steps: int,
    targeted: bool,
    kappa: float,
    bounds: tuple[float, float],
    mask: Tensor | None,
    norm: str = 'l2',
) -> AttackResult:
    """Attack what is not misclassified already, and collect the result."""
    if steps < 1:
        raise ValueError(f'steps={steps} must be at least 1')
    check_images(x, y, bounds, mask)
    with torch.no_grad():
        already = distance(check_logits(logits_fn(x)), y, targeted, kappa) < 0
    rows = (~already).nonzero().squeeze(1)
    x_adv, first = x.clone(), torch.where(already, 0, -1)
    if len(rows):
        free = None if mask is None else mask.expand(x.shape)[rows]
        best = Best(x[rows], norm)
        attack(x[rows], y[rows], free, best)
        x_adv[rows] = best.best.clamp(*bounds) if free is None else best.best
        first[rows] = best.first
    l2 = torch.where(first >= 0, l2_norm(x_adv - x), torch.inf)
    passes = len(rows) * steps
    return AttackResult(x_adv, first >= 0, l2, len(x) + passes, passes, first)
