"""APGD: PGD that sets its own step size (Croce & Hein, arXiv 2003.01690).

Written from the paper: Algorithm 1 with its momentum of 0.75, the checkpoints at which the step is
halved and their two conditions, the cross-entropy, the difference of logits ratio (DLR) and its
targeted form.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn, check_logits
from mmext.attacks.gradient_attacks import (
    AttackResult,
    Generators,
    check_ball,
    check_images,
    distance,
    draw,
    entropy_direction,
    expand,
    input_gradient,
    l2_norm,
    norm_of,
    project,
    rows_of,
)

LOSSES = ('ce', 'dlr', 'dlr_targeted')
_ALPHA = 0.75  # Algorithm 1
_RHO = 0.75  # condition 1
_TINY = 1e-12

#: (logits, y, target) -> loss to climb, (N,).
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def dlr_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: ``-(Z_y - max_{i != y} Z_i) / (Z_1 - Z_3)``, sorted from above.

    Args:
        logits: (N, K), K >= 3.
        y: True class, (N,).

    Returns:
        (N,); above 0 where the sample is misclassified. It does not change with shift and scale of
        the logits.
    """
    ranked = logits.topk(3, 1).values
    return -distance(logits, y) / (ranked[:, 0] - ranked[:, 2] + _TINY)


def dlr_targeted_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR: ``-(Z_y - Z_t) / (Z_1 - (Z_3 + Z_4) / 2)``, sorted from above.

    Args:
        logits: (N, K), K >= 4.
        y, target: True class and the class to reach, (N,).

    Returns:
        (N,)
    """
    ranked = logits.topk(4, 1).values
    own, wanted = (logits.gather(1, index[:, None]).squeeze(1) for index in (y, target))
    return -(own - wanted) / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + _TINY)


def checkpoints(steps: int) -> list[int]:
    """Steps at which the step size may be halved, rising and below ``steps`` (Section 3.1)."""
    share, gap, found = 0.22, 0.22, []
    while math.ceil(share * steps) < steps:
        found.append(math.ceil(share * steps))
        gap = max(gap - 0.03, 0.06)
        share += gap
    return sorted(set(found))


def apgd(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = 'linf',
    loss: str = 'ce',
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    generator: Generators = None,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Climb a loss inside a ball, with a step size that falls as progress stalls.

    A sample leaves the batch at its first adversarial image.

    Args:
        logits_fn, x, y, norm, generator, bounds, mask: As for :func:`.gradient_attacks.pgd`.
        eps: Radius of the ball, >= 0, in units of ``bounds``.
        loss: 'ce' (APGD-CE); 'dlr' (APGD-DLR, three classes or more); 'dlr_targeted' (APGD-T, four
            or more): one run towards each of the likeliest other classes.
        steps: Gradients in each run, >= 1 (paper: 100).
        restarts: Runs from random starts, >= 1 (paper's standard evaluation: 1).
        targets: Classes that APGD-T tries, >= 1 (paper: 9), at most K - 1.

    Returns:
        Result; ``x_adv`` are the first adversarial images found.

    Raises:
        ValueError: An argument is out of range, or there are too few classes for the loss.
    """
    check_ball(eps, norm, steps)
    if loss not in LOSSES:
        raise ValueError(f'loss={loss!r} must be one of {", ".join(LOSSES)}')
    if restarts < 1 or targets < 1:
        raise ValueError(f'restarts={restarts} and targets={targets} must be at least 1')
    check_images(x, y, bounds, mask)
    with torch.no_grad():
        clean = check_logits(logits_fn(x)).detach()
    least = {'ce': 2, 'dlr': 3, 'dlr_targeted': 4}[loss]
    if clean.shape[1] < least:
        raise ValueError(
            f"loss={loss!r} needs {least} classes, there are {clean.shape[1]}; use 'ce'"
        )
    x_adv, first = x.clone(), torch.where(distance(clean, y) < 0, 0, -1)
    others = clean.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    runs = min(targets, clean.shape[1] - 1) if loss == 'dlr_targeted' else 1
    passes, done = 0, 0
    for index in [index for _ in range(restarts) for index in range(runs)]:
        rows = (first < 0).nonzero().squeeze(1)
        if not len(rows):
            break
        climb = _Climb(logits_fn, eps, norm, loss, steps, bounds)
        found = climb.run(
            x[rows], y[rows], others[rows, index],
            None if mask is None else mask.expand(x.shape)[rows], rows_of(generator, rows),
        )  # fmt: skip
        hit = found.first >= 0
        x_adv[rows[hit]], first[rows[hit]] = found.best[hit], found.first[hit] + done
        passes, done = passes + climb.passes, done + steps
    l2 = torch.where(first >= 0, l2_norm(x_adv - x), torch.inf)
    return AttackResult(x_adv, first >= 0, l2, len(x) + passes, passes, first)


@dataclass
class _State:
    """Samples under attack; every field is indexed by sample, so that finished ones can leave."""

    row: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    mask: Tensor
    now: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor  # image of the highest loss, its gradient and that loss
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    step: Tensor  # size
    halved: Tensor  # whether the last checkpoint halved it
    checked_loss: Tensor  # highest loss at the last checkpoint

    def take(self, rows: Tensor) -> '_State':
        """The samples of ``rows``."""
        return _State(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass
class _Found:
    """First adversarial images, and the steps before them (-1: none)."""

    best: Tensor
    first: Tensor


class _Climb:
    """One run of APGD."""

    def __init__(self, logits_fn, eps, norm, loss, steps, bounds) -> None:
        self.logits_fn, self.eps, self.norm, self.loss = logits_fn, eps, norm, loss
        self.steps, self.bounds = steps, bounds
        self.passes = 0

    def run(
        self, x: Tensor, y: Tensor, target: Tensor, mask: Tensor | None, generator: Generators
    ) -> _Found:
        """Attack samples that are classified rightly."""
        found = _Found(x.clone(), torch.full_like(y, -1))
        state = self._begin(x, y, target, mask, generator)
        last = 0
        marks = set(checkpoints(self.steps))
        for step in range(self.steps):
            state = self._see(state, step, found)
            if not len(state.y):
                break
            if step in marks:
                self._halve(state, step - last)
                last = step
            self._move(state, first=step == 0)
        else:
            with torch.no_grad():
                hit = distance(self.logits_fn(state.now), state.y) < 0
            found.best[state.row[hit]], found.first[state.row[hit]] = state.now[hit], self.steps
        return found

    def _begin(self, x, y, target, mask, generator) -> _State:
        whole = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        start = draw(x, x.shape[1:], generator, normal=self.norm == 'l2')
        start = start if self.norm == 'l2' else 2 * start - 1
        # The start is on the surface of the ball.
        size = expand(norm_of(start, self.norm), start).clamp_min(_TINY)
        zero = x.new_zeros(len(x))
        state = _State(
            row=torch.arange(len(x), device=x.device), x=x, y=y, target=target, mask=whole,
            now=x, before=x, gradient=x, best=x, best_gradient=x,
            best_loss=zero - torch.inf, last_loss=zero + torch.inf, rises=zero,
            step=zero + 2 * self.eps, halved=zero > 0, checked_loss=zero - torch.inf,
        )  # fmt: skip
        state.now = state.before = self._limit(state, x + self.eps * start / size)
        return state

    def _limit(self, state: _State, images: Tensor) -> Tensor:
        radius = torch.full_like(expand(state.step, images), self.eps)
        inside = (state.x + project(images - state.x, radius, self.norm)).clamp(*self.bounds)
        return torch.where(state.mask, inside, state.x)

    def _loss(self, logits: Tensor, state: _State) -> Tensor:
        if self.loss == 'ce':
            return torch.nn.functional.cross_entropy(logits, state.y, reduction='none')
        if self.loss == 'dlr':
            return dlr_loss(logits, state.y)
        return dlr_targeted_loss(logits, state.y, state.target)

    def _direction(self, logits: Tensor, state: _State) -> Tensor:
        """Gradient of the loss by the logits."""
        if self.loss == 'ce':
            return entropy_direction(logits, state.y)
        leaf = logits.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._loss(leaf, state).sum(), leaf)
        return gradient

    def _see(self, state: _State, step: int, found: _Found) -> _State:
        """Take the gradient at the present images; those that are adversarial leave."""
        uphill = partial(self._direction, state=state)
        logits, state.gradient = input_gradient(self.logits_fn, state.now, uphill)
        self.passes += len(state.y)
        hit = distance(logits, state.y) < 0
        loss = self._loss(logits, state)
        better = loss > state.best_loss
        state.rises = state.rises + (loss > state.last_loss)
        state.last_loss = loss
        state.best_loss = torch.where(better, loss, state.best_loss)
        wide = expand(better, state.now)
        state.best = torch.where(wide, state.now, state.best)
        state.best_gradient = torch.where(wide, state.gradient, state.best_gradient)
        if bool(hit.any()):
            found.best[state.row[hit]], found.first[state.row[hit]] = state.now[hit], step
            state = state.take((~hit).nonzero().squeeze(1))
        return state

    def _halve(self, state: _State, interval: int) -> None:
        """Halve the steps of samples that stall, and begin again at their best image."""
        stalls = state.rises < _RHO * interval  # condition 1
        stuck = ~state.halved & (state.best_loss <= state.checked_loss)  # condition 2
        state.halved = stalls | stuck
        state.checked_loss, state.rises = state.best_loss, torch.zeros_like(state.rises)
        state.step = torch.where(state.halved, state.step / 2, state.step)
        wide = expand(state.halved, state.now)
        state.now = torch.where(wide, state.best, state.now)
        state.gradient = torch.where(wide, state.best_gradient, state.gradient)

    def _move(self, state: _State, first: bool) -> None:
        """Step with momentum (Algorithm 1)."""
        if self.norm == 'linf':
            direction = state.gradient.sign()
        else:
            size = expand(l2_norm(state.gradient), state.gradient).clamp_min(_TINY)
            direction = state.gradient / size
        ahead = self._limit(state, state.now + expand(state.step, state.now) * direction)
        alpha = 1.0 if first else _ALPHA
        momentum = (1 - alpha) * (state.now - state.before)
        after = self._limit(state, state.now + alpha * (ahead - state.now) + momentum)
        state.before, state.now = state.now, after
