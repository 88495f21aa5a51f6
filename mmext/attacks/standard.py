"""Standard robust evaluation: several attacks in turn, and signs that gradients mislead them.

The attacks of AutoAttack (Croce & Hein, arXiv 2003.01690) in its order, with FMN in the place of
FAB: both look for the nearest adversarial image. Each attacks only the samples that still stand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn
from mmext.attacks.auto_pgd import apgd
from mmext.attacks.gradient_attacks import (
    AttackResult,
    Generators,
    distance,
    distance_direction,
    input_gradient,
    l2_norm,
    norm_of,
    rows_of,
)
from mmext.attacks.minimum_norm import fmn
from mmext.attacks.square import square

PARTS = ('apgd_ce', 'apgd_t', 'fmn', 'square')
#: Share of the samples that withstand the gradients, from which on Square's finds are a sign.
_MASKED = 0.01
_SAME = 1e-4  # largest difference of logits between two passes, over their size


def fmn_in_ball(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = 'linf',
    steps: int = 100,
    generator: Generators = None,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Run :func:`.minimum_norm.fmn` and keep what is within ``eps``; it draws nothing."""
    found = fmn(logits_fn, x, y, steps=steps, norm=norm, bounds=bounds, mask=mask)
    # Projections leave the ball by a rounding.
    near = found.success & (norm_of(found.x_adv - x, norm) <= eps * (1 + 1e-6))
    return AttackResult(
        torch.where(near.reshape(-1, *[1] * (x.ndim - 1)), found.x_adv, x),
        near,
        found.l2.masked_fill(~near, torch.inf),
        found.n_forward,
        found.n_backward,
        found.first_success.masked_fill(~near, -1),
    )


def standard(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = 'linf',
    steps: int = 100,
    queries: int = 5000,
    restarts: int = 1,
    parts: Sequence[str] = PARTS,
    generator: Generators = None,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Attack by APGD-CE, APGD-T, FMN and Square, in this order.

    Args:
        logits_fn, x, y, norm, generator, bounds, mask: As for :func:`.gradient_attacks.pgd`;
            ``x`` of shape (N, C, H, W).
        eps: Radius of the ball, >= 0, in units of ``bounds``.
        steps: Gradients of each run of APGD and of FMN, >= 1 (AutoAttack: 100).
        queries: Of Square, >= 1 (AutoAttack: 5000).
        restarts: Of both APGD, >= 1 (AutoAttack: 1).
        parts: Attacks, of :data:`PARTS`. With fewer than four classes APGD-T is left out, since
            its loss needs four.

    Returns:
        Result with the first adversarial image of each sample; ``first_success`` counts the steps
        of the attack that found it, which ``by`` names.

    Raises:
        ValueError: An argument is out of range.

    Cost: ``11 * steps`` gradients and ``queries`` forward passes of samples that stand to the end.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f'parts={list(parts)} must be of {", ".join(PARTS)}')
    with torch.no_grad():
        logits = logits_fn(x)
    first = torch.where(distance(logits, y) < 0, 0, -1)
    by = torch.full_like(first, -1)
    x_adv, n_forward, n_backward = x.clone(), len(x), 0
    runs: dict[str, Callable[..., AttackResult]] = {
        'apgd_ce': partial(apgd, steps=steps, restarts=restarts),
        'apgd_t': partial(apgd, loss='dlr_targeted', steps=steps, restarts=restarts),
        'fmn': partial(fmn_in_ball, steps=steps),
        'square': partial(square, queries=queries),
    }
    for part in parts:
        rows = (first < 0).nonzero().squeeze(1)
        if not len(rows) or (part == 'apgd_t' and logits.shape[1] < 4):
            continue
        found = runs[part](
            logits_fn, x[rows], y[rows], eps=eps, norm=norm, bounds=bounds,
            generator=rows_of(generator, rows),
            mask=None if mask is None else mask.expand(x.shape)[rows],
        )  # fmt: skip
        hit = found.success
        x_adv[rows[hit]], first[rows[hit]] = found.x_adv[hit], found.first_success[hit]
        n_forward, n_backward = n_forward + found.n_forward, n_backward + found.n_backward
        by[rows[hit]] = PARTS.index(part)
    l2 = torch.where(first >= 0, l2_norm(x_adv - x), torch.inf)
    return AttackResult(x_adv, first >= 0, l2, n_forward, n_backward, first, by)


@dataclass(frozen=True)
class GradientCheck:
    """Signs that gradients mislead, for the images of a batch.

    Attributes:
        random: Whether two passes of the same images give different logits.
        zero: Bool (N,), whether the margin has no gradient at all.
    """

    random: bool
    zero: Tensor


def check_gradients(logits_fn: LogitsFn, x: Tensor, y: Tensor) -> GradientCheck:
    """Look for randomness and for gradients that are zero: three passes and a gradient."""
    with torch.no_grad():
        first, second = logits_fn(x), logits_fn(x)
    differ = (first - second).abs().max() > _SAME * first.abs().max()
    _, gradient = input_gradient(logits_fn, x, partial(distance_direction, y=y))
    return GradientCheck(bool(differ), gradient.flatten(1).abs().amax(1) == 0)


def robustness_warnings(
    *, random: bool, zero: float, by_square: int = 0, standing: int = 0
) -> list[str]:
    """Say why a robust accuracy cannot be believed, a sentence for each reason.

    Args:
        random: Whether the network draws at inference.
        zero: Share of the images without gradient, in [0, 1].
        by_square: Images that Square broke after all attacks by gradients had failed.
        standing: Images that withstand all attacks.
    """
    told = []
    if random:
        told.append(
            'randomised: two passes of the same images give different logits, and the robust '
            'accuracy is overstated; take the randomness out, or average over it'
        )
    if zero:
        told.append(
            f'zero gradients: {zero:.1%} of the images have none, and attacks by gradients fail on '
            'them; look for roundings and thresholds, and believe Square alone'
        )
    if by_square and by_square >= _MASKED * (by_square + standing):
        told.append(
            f'masked gradients: Square, which uses none, breaks {by_square} of '
            f'{by_square + standing} images that withstood attacks by gradients, and the robust '
            'accuracy is overstated; use an attack that is made for this defence'
        )
    return told
