"""Square: random search by squares, without gradients (Andriushchenko et al., arXiv 1912.00049).

Written from the paper's Algorithms 1 (random search), 2 (Linf) and 3 (L2). An attack that needs no
gradient tells a robust network from one whose gradients are of no use.
"""

import math

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
    expand,
    l2_norm,
    rows_of,
)

_TINY = 1e-12
#: Queries of 10,000 after which the share of pixels in a square is halved (the paper's schedule).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def share_of_pixels(query: int, queries: int, first: float) -> float:
    """Share of the image in the square of a query: ``first``, halved on the way."""
    passed = sum(10000 * query / queries > mark for mark in _HALVINGS)
    return first / 2**passed


def square(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = 'linf',
    queries: int = 5000,
    first_share: float = 0.8,
    generator: Generators = None,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Search for an adversarial image by random squares, keeping what lowers the margin.

    A sample leaves the batch at its first adversarial image.

    Args:
        logits_fn, y, norm, generator, bounds, mask: As for :func:`.gradient_attacks.pgd`.
        x: Images, (N, C, H, W).
        eps: Radius of the ball, >= 0, in units of ``bounds``.
        queries: Forward passes of each sample, >= 1 (AutoAttack: 5000).
        first_share: Share of the image in the first squares, in (0, 1] (AutoAttack: 0.8).

    Returns:
        Result without backward passes; ``first_success`` counts queries.

    Raises:
        ValueError: An argument is out of range.
    """
    check_ball(eps, norm, queries)
    if x.ndim != 4 or not 0 < first_share <= 1:
        raise ValueError(
            f'Square needs images (N, C, H, W), got {tuple(x.shape)}, and first_share='
            f'{first_share} in (0, 1]'
        )
    check_images(x, y, bounds, mask)
    propose = _linf if norm == 'linf' else _l2
    x_adv, first = x.clone(), torch.full_like(y, -1)
    with torch.no_grad():
        first[distance(check_logits(logits_fn(x)), y) < 0] = 0
        rows = (first < 0).nonzero().squeeze(1)
        clean, labels, generator = x[rows], y[rows], rows_of(generator, rows)
        free = None if mask is None else mask.expand(x.shape)[rows]
        best, margin, passes = clean, torch.full_like(clean[:, 0, 0, 0], torch.inf), 0
        for query in range(queries if len(rows) else 0):
            share = share_of_pixels(query, queries, first_share)
            tried = clean + propose(clean, best, eps, share, query == 0, generator)
            tried = tried.clamp(*bounds)
            tried = tried if free is None else torch.where(free, tried, clean)
            now = distance(logits_fn(tried), labels)
            passes += len(tried)
            better = now < margin
            best, margin = (
                torch.where(expand(better, best), tried, best),
                torch.where(better, now, margin),
            )
            hit = now < 0
            if bool(hit.any()):
                x_adv[rows[hit]], first[rows[hit]] = tried[hit], query + 1
                stay = (~hit).nonzero().squeeze(1)
                if not len(stay):
                    break
                rows, clean, labels, best, margin = (
                    value[stay] for value in (rows, clean, labels, best, margin)
                )
                free = None if free is None else free[stay]
                generator = rows_of(generator, stay)
    l2 = torch.where(first >= 0, l2_norm(x_adv - x), torch.inf)
    return AttackResult(x_adv, first >= 0, l2, len(x) + passes, 0, first)


def _side(image: Tensor, share: float) -> int:
    height, width = image.shape[-2:]
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _signs(like: Tensor, shape: tuple[int, ...], generator: Generators) -> Tensor:
    return 2.0 * (draw(like, shape, generator) < 0.5).to(like) - 1


def _window(like: Tensor, side: int, generator: Generators) -> Tensor:
    """A square at a random place, bool (N, 1, H, W)."""
    height, width = like.shape[-2:]
    place = draw(like, (2,), generator)
    inside = []
    for axis, length in enumerate((height, width)):
        start = (place[:, axis : axis + 1] * (length - side + 1)).floor().clamp_max(length - side)
        index = torch.arange(length, device=like.device)
        inside.append((index >= start) & (index < start + side))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _linf(
    clean: Tensor, best: Tensor, eps: float, share: float, begin: bool, generator: Generators
) -> Tensor:
    """Vertical stripes of ``+-eps`` at first, then squares of them (Algorithm 2)."""
    channels, width = clean.shape[1], clean.shape[3]
    if begin:
        return eps * _signs(clean, (channels, 1, width), generator).expand_as(clean)
    window = _window(clean, _side(clean, share), generator)
    sign = _signs(clean, (channels, 1, 1), generator)
    return torch.where(window, eps * sign, best - clean)


def _bump(height: int, width: int, like: Tensor) -> Tensor:
    """The paper's eta of a rectangle: positive, highest in the middle, (height, width)."""
    half = height // 2
    rows, columns = torch.arange(height) - half, torch.arange(width) - width // 2
    rings = half - torch.maximum(rows.abs()[:, None], columns.abs()[None, :]).clamp_max(half)
    steps = torch.cumsum(1 / (half + 1 - torch.arange(half + 1.0)) ** 2, 0)
    return steps[rings].to(like)


def _pattern(side: int, like: Tensor, generator: Generators) -> Tensor:
    """Two bumps of opposite sign side by side or above each other, norm 1, (N, 1, side, side)."""
    half = side // 2
    pair = torch.cat([_bump(side, half, like), -_bump(side, side - half, like)], 1)
    pair = pair / pair.norm().clamp_min(_TINY)
    upright = draw(like, (1, 1, 1), generator) < 0.5
    return torch.where(upright, pair, pair.T)


def _l2(
    clean: Tensor, best: Tensor, eps: float, share: float, begin: bool, generator: Generators
) -> Tensor:
    """Tiles of bumps at first; then the norm of one square moves into another (Algorithm 3)."""
    channels, height, width = clean.shape[1:]
    if begin:
        side = max(min(height, width) // 5, 1)
        tiles = _signs(clean, (channels, height // side, width // side), generator)
        bump = _bump(side, side, clean)
        delta = torch.zeros_like(clean)
        high, wide = side * (height // side), side * (width // side)
        delta[..., :high, :wide] = torch.kron(tiles, bump)
        return eps * delta / expand(l2_norm(delta), delta).clamp_min(_TINY)
    side = min(max(_side(clean, share), 3), height, width)
    old = best - clean
    into, out = _window(clean, side, generator), _window(clean, side, generator)
    out = out & ~into
    pattern = torch.zeros_like(old[:, :1]).masked_scatter(into, _pattern(side, clean, generator))
    unused = (eps**2 - l2_norm(old).square()).clamp_min(0)
    # Per channel: what both squares hold, and a share of what the ball still allows.
    held = (old.square() * (into | out)).sum((2, 3), keepdim=True)
    available = (held + expand(unused, old) / channels).sqrt()
    present = old * into
    size = present.square().sum((2, 3), keepdim=True).sqrt().clamp_min(_TINY)
    mixed = _signs(clean, (channels, 1, 1), generator) * pattern + present / size
    mixed = mixed / mixed.square().sum((2, 3), keepdim=True).sqrt().clamp_min(_TINY)
    return torch.where(into, mixed * available, old * ~out)
