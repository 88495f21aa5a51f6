"""Rank choice: which ranks lose least for a budget of MACs or milliseconds.

The product of the energies that the layers keep is to be largest (arXiv 1505.06798); the exact
choice and milliseconds as a budget are ours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

_CELLS = 10_000


class Option(NamedTuple):
    """One form of a layer: rank (None: as it is), cost, and minus the log of its energy."""

    rank: int | None
    cost: float
    lost: float


def round_rank(rank: int, multiple: int, limit: float) -> int | None:
    """``rank`` rounded up to a multiple, less where that is not below ``limit``.

    Returns None where ``rank`` itself is not below ``limit``.
    """
    rounded = -(-rank // multiple) * multiple
    if rounded < limit:
        return rounded
    return rank if rank < limit else None


def candidate_ranks(limit: float, multiple: int, most: int | None = None) -> list[int]:
    """Multiples below ``limit`` (or all ranks, where there is none), at most ``most`` of them."""
    ranks = [rank for rank in range(multiple, int(limit) + 1, multiple) if rank < limit]
    ranks = ranks or [rank for rank in range(1, int(limit) + 1) if rank < limit]
    if most is None or len(ranks) <= most:
        return ranks
    return sorted({ranks[round(i * (len(ranks) - 1) / (most - 1))] for i in range(most)})


def log_loss(energies: Tensor, rank: int) -> float:
    """Minus the logarithm of the share of the energy that ``rank`` keeps, of all groups."""
    return -math.log(float(energies[..., :rank].sum() / energies.sum()))


def choose(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, Option]:
    """One option per layer: least loss in sum, total cost within ``budget``.

    A multiple-choice knapsack by dynamic programming; costs above the least are rounded up to
    1/10,000 of what the budget leaves for them.

    Raises:
        ValueError: Even the cheapest options cost more.
    """
    least = sum(min(option.cost for option in of_layer) for of_layer in options.values())
    if least > budget:
        raise ValueError(f'the least cost within reach is {least:.6g}, the budget {budget:.6g}')
    # Costs above the cheapest option of each layer, in cells of what is left for them.
    cell = max(budget - least, 1e-300) / _CELLS
    lost = np.zeros(_CELLS + 1)
    picks: dict[str, np.ndarray] = {}
    prices: dict[str, list[int]] = {}
    for name, of_layer in options.items():
        cheapest = min(option.cost for option in of_layer)
        prices[name] = [_cells(option.cost - cheapest, cell) for option in of_layer]
        totals = np.full((len(of_layer), _CELLS + 1), np.inf)
        for row, price, option in zip(totals, prices[name], of_layer, strict=True):
            row[price:] = lost[: _CELLS + 1 - price] + option.lost
        picks[name] = totals.argmin(0)
        lost = totals.min(0)
    chosen: dict[str, Option] = {}
    left = _CELLS
    for name in reversed(list(options)):
        pick = picks[name][left]
        chosen[name] = options[name][pick]
        left -= prices[name][pick]
    return chosen


def _cells(cost: float, cell: float) -> int:
    """Cells that a cost takes; beyond the last it is out of reach."""
    return min(math.ceil(cost / cell * (1 - 1e-12)), _CELLS + 1)
