"""The CW-L2 attack, plain or guided by gradients, on plain tensors.

CW-L2 (arXiv 1608.04644) looks for ``x' = box(tanh(m + atanh(x)))`` with the least
``||x' - x||^2 + c f(x')``, ``f`` the distance from being adversarial; Adam moves ``m`` and a binary
search chooses ``c``. Guided CW (arXiv 1812.02524) is in :mod:`.guided`.
"""

from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn, check_logits
from mmext.attacks.gradient_attacks import (
    AttackResult,
    check_images,
    distance,
    distance_direction,
    expand,
    input_gradient,
    l2_norm,
)

from .guided import guided

GUIDES = ('none', 'gradient')
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's own defaults
_INSIDE = 1 - 1e-6  # atanh is infinite at the bounds
_LR, _CONST = 0.01, 1e-3  # author's code


@dataclass
class _Search:
    """Samples under attack; every field is indexed by sample, so finished ones can leave."""

    x: Tensor
    y: Tensor
    free: Tensor  # pixels that may change
    start: Tensor  # x in the space of tanh
    modifier: Tensor  # m
    mean: Tensor  # Adam's moments and age
    square: Tensor
    age: Tensor
    const: Tensor  # c and the interval it is in
    lower: Tensor
    upper: Tensor
    best: Tensor
    best_l2: Tensor
    first: Tensor  # steps until the first success
    found: Tensor  # adversarial with the present c
    previous: Tensor  # objective at the last check

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> '_Search':
        """The samples of ``rows``."""
        return _Search(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: Tensor, part: '_Search') -> None:
        """Write samples that :meth:`take` gave back to their rows."""
        if part is self:
            return
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)


def cw_l2(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
    kappa: float = 0,
    steps: int,
    search_steps: int,
    lr: float | None = None,
    initial_const: float | None = None,
    guide: str = 'none',
    abort_early: bool = True,
    warm_start: bool = False,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Find the adversarial image of least L2 distance (CW-L2), plain or guided by gradients.

    Every sample is searched for itself: its result does not depend on the others in the batch
    (beyond rounding), and samples that are misclassified already are left out. Plain CW is the
    author's: it needs thousands of steps, or a learning rate and a first constant that fit images,
    network and number of steps. Guided CW takes both from each image (:mod:`.guided`) and is for
    budgets of tens to hundreds of gradients, ``steps * search_steps`` in all.

    Args:
        logits_fn: Images -> logits (N, K); see :func:`mmext.attacks.adversarial.logits_fn`.
        x: Images in ``bounds``, (N, C, H, W), floating point (float32 or better).
        y: True classes, with ``targeted`` the wanted ones, (N,).
        targeted: Search for an image of class ``y`` instead of any class but ``y``.
        kappa: Confidence in units of logits, >= 0 (Carlini & Wagner, eq. for f_6; code: 0).
        steps: Adam steps for each constant, >= 1 (author's code: 10000).
        search_steps: Constants tried, >= 1 (author's code: 9). In plain CW, from 10 on the last one
            repeats the smallest constant that succeeded, as in the author's code.
        lr: Adam's learning rate, > 0. None: 0.01 (author's code); with a guide, steps fall from a
            quarter to a fiftieth of the distance of the nearest adversarial image.
        initial_const: First constant c, > 0. It is multiplied by 10 until the sample succeeds, then
            bisected. None: 1e-3 (author's code); with a guide, twice what suffices on a linear
            model, and so again after each success.
        guide: 'none' is CW-L2; 'gradient' is guided CW.
        abort_early: Plain CW: every ``steps / 10`` steps, drop the samples whose objective has not
            fallen below 0.9999 of its last value (author's code compares the sum over the batch).
            They leave the batch, so the rest runs faster.
        warm_start: Plain CW: begin the search for a constant where the last one ended instead of at
            ``x`` with a fresh Adam (ours). Guided CW always does.
        bounds: Range of ``x``.
        mask: Bool, broadcasts to ``x``; pixels with False stay as they are (padding).

    Returns:
        Result; a failed sample has ``x`` itself, ``success`` False and infinite ``l2``.

    Raises:
        ValueError: An argument is out of range, ``x`` leaves ``bounds`` or is half precision, or
            ``logits_fn`` gives probabilities.

    Example:
        >>> result = cw_l2(logits_fn(classifier), images, labels, steps=100, search_steps=9,
        ...                guide='gradient')

    Cost: at most ``steps * search_steps`` gradients and one forward pass a sample, and ten times
    the batch in memory. There is no transfer from the device between steps, only one at each check
    of ``abort_early``.
    """
    _check_settings(x, kappa, steps, search_steps, lr, initial_const, guide)
    if guide == 'gradient':
        return guided(
            logits_fn, x, y, steps=steps, search_steps=search_steps, lr=lr,
            initial_const=initial_const, targeted=targeted, kappa=kappa, bounds=bounds, mask=mask,
        )  # fmt: skip
    lr = _LR if lr is None else lr
    initial_const = _CONST if initial_const is None else initial_const
    check_images(x, y, bounds, mask)
    n_forward, n_backward = len(x), 0
    with torch.no_grad():
        logits = check_logits(logits_fn(x))
    already = distance(logits, y, targeted, kappa) < 0
    rows = (~already).nonzero().squeeze(1)
    best, best_l2 = x.clone(), x.new_zeros(len(x)).masked_fill_(~already, torch.inf)
    first = torch.where(already, 0, -1)
    if len(rows):
        free = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
        search = _begin(x[rows], y[rows], free[rows], initial_const, bounds)
        for outer in range(search_steps):
            if search_steps >= 10 and outer == search_steps - 1:
                search.const = torch.where(search.upper.isfinite(), search.upper, search.const)
            passes = _minimise(
                logits_fn, search, steps=steps, done=outer * steps, lr=lr, targeted=targeted,
                kappa=kappa, abort_early=abort_early, warm_start=warm_start, bounds=bounds,
            )  # fmt: skip
            n_forward, n_backward = n_forward + passes, n_backward + passes
            _next_const(search)
        best[rows] = torch.where(search.free, search.best.clamp(*bounds), search.x)
        best_l2[rows] = l2_norm(best[rows] - search.x).masked_fill(search.first < 0, torch.inf)
        first[rows] = search.first
    return AttackResult(best, first >= 0, best_l2, n_forward, n_backward, first)


def _begin(
    x: Tensor,
    y: Tensor,
    free: Tensor,
    initial_const: float,
    bounds: tuple[float, float],
) -> _Search:
    middle, half = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
    # Values of the padding may have no atanh.
    inner = torch.where(free, x, middle)
    one_each = x.new_zeros(len(x))
    return _Search(
        x=x,
        y=y,
        free=free,
        start=((inner - middle) / half * _INSIDE).atanh(),
        modifier=torch.zeros_like(x),
        mean=torch.zeros_like(x),
        square=torch.zeros_like(x),
        age=one_each.clone(),
        const=one_each + initial_const,
        lower=one_each,
        upper=one_each + torch.inf,
        best=x,
        best_l2=one_each + torch.inf,
        first=torch.full_like(y, -1),
        found=one_each > 0,
        previous=one_each + torch.inf,
    )


def _minimise(
    logits_fn: LogitsFn,
    everyone: _Search,
    *,
    steps: int,
    done: int,
    lr: float,
    targeted: bool,
    kappa: float,
    abort_early: bool,
    warm_start: bool,
    bounds: tuple[float, float],
) -> int:
    """Run Adam with the present constants; return how many images passed the network."""
    middle, half = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
    everyone.found = torch.zeros_like(everyone.found)
    everyone.previous = torch.full_like(everyone.previous, torch.inf)
    if not warm_start:
        for state in (everyone.modifier, everyone.mean, everyone.square, everyone.age):
            state.zero_()
    search, places = everyone, torch.arange(len(everyone), device=everyone.y.device)
    passes = 0
    for step in range(steps):
        squash = (search.start + search.modifier).tanh_()
        x_adv = torch.where(search.free, squash * half + middle, search.x)
        delta = x_adv - search.x
        logits, slope = input_gradient(
            logits_fn, x_adv, partial(distance_direction, y=search.y, targeted=targeted)
        )
        passes += len(search)
        away = distance(logits, search.y, targeted, kappa)
        squared = delta.flatten(1).square().sum(1)
        _keep_best(search, x_adv, squared.sqrt(), away < 0, done + step)
        if abort_early and step % max(steps // 10, 1) == 0:
            objective = squared + search.const * away.clamp_min(0)
            stays = (objective <= 0.9999 * search.previous).nonzero().squeeze(1)
            search.previous = objective
            if len(stays) < len(search):
                everyone.put(places, search)
                search, places = search.take(stays), places[stays]
                squash, delta, slope, away = (v[stays] for v in (squash, delta, slope, away))
            if not len(stays):
                break
        weight = expand(search.const * (away > 0), delta)
        gradient = (2 * delta + weight * slope) * (1 - squash.square()) * half
        _adam_step(search, gradient * search.free, lr)
    everyone.put(places, search)
    return passes


def _keep_best(
    search: _Search, x_adv: Tensor, l2: Tensor, adversarial: Tensor, steps_done: int
) -> None:
    """Keep the nearest adversarial image of each sample."""
    better = adversarial & (l2 < search.best_l2)
    search.best_l2 = torch.where(better, l2, search.best_l2)
    search.best = torch.where(expand(better, x_adv), x_adv, search.best)
    search.first = torch.where(adversarial & (search.first < 0), steps_done, search.first)
    search.found = search.found | adversarial


def _adam_step(search: _Search, gradient: Tensor, lr: float) -> None:
    """Adam on ``m``."""
    search.age += 1
    search.mean.lerp_(gradient, 1 - _BETA1)
    search.square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
    correction1, correction2 = (1 - beta**search.age for beta in (_BETA1, _BETA2))
    size = (search.square / expand(correction2, gradient)).sqrt_().add_(_EPSILON)
    search.modifier.sub_(search.mean / size * expand(lr / correction1, gradient))


def _next_const(search: _Search) -> None:
    """Bisect between the largest constant that failed and the smallest that succeeded."""
    const, found = search.const, search.found
    search.upper = torch.where(found, torch.minimum(search.upper, const), search.upper)
    search.lower = torch.where(found, search.lower, torch.maximum(search.lower, const))
    middle = (search.lower + search.upper) / 2
    search.const = torch.where(search.upper.isfinite(), middle, const * 10)


def _check_settings(x, kappa, steps, search_steps, lr, initial_const, guide) -> None:
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f'x has {x.dtype}, where 0.999999 is 1 and its atanh infinite; use float32'
        )
    if guide not in GUIDES:
        raise ValueError(f'guide={guide!r} must be one of {", ".join(GUIDES)}')
    if steps < 1 or search_steps < 1:
        raise ValueError(f'steps={steps} and search_steps={search_steps} must be at least 1')
    for name, value in (('lr', lr), ('initial_const', initial_const)):
        if value is not None and not value > 0:
            raise ValueError(f'{name}={value} must be above 0')
    if kappa < 0:
        raise ValueError(f'kappa={kappa} must not be negative')
