"""Federated averaging of weight deltas, with the checks that every update must pass.

Pure functions: no network, no files. Sums and numbers of examples are kept apart until the end, so
sums of sums (edges below a region below the cloud) give what one sum gives.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Update:
    """What an edge sends.

    Args:
        edge (str): Who sends it.
        examples (int): Frames it was trained on.
        delta (Mapping): Floating-point weights after minus before, by name.
    """

    edge: str
    examples: int
    delta: State


@dataclass(frozen=True)
class Bounds:
    """What an update may be; all ours.

    Args:
        max_examples (int): More count as so many: no edge outweighs all others. 10 000.
        max_relative (float): Largest norm of a delta over the norm of the weights. 0.5.
        max_ratio (float): Largest norm of a delta over the median norm of the round's other
            deltas; judged from three updates on. 10.
    """

    max_examples: int = 10_000
    max_relative: float = 0.5
    max_ratio: float = 10

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f'{name}={value} must be positive')


@dataclass(frozen=True)
class PartialSum:
    """Weighted deltas of some edges, not yet divided.

    Args:
        total (int): Examples.
        sums (dict): Sum of examples times delta, float64.
    """

    total: int
    sums: dict[str, Tensor]


def floating(state: State) -> dict[str, Tensor]:
    """The entries that are averaged; the others (counters of batches ...) are the server's."""
    return {name: value for name, value in state.items() if value.is_floating_point()}


def norm(delta: State) -> float:
    """Euclidean norm of all entries."""
    return math.sqrt(sum(value.double().square().sum().item() for value in delta.values()))


def fault(update: Update, base: State, bounds: Bounds) -> str | None:
    """Why an update cannot be taken by itself; None: it can.

    Args:
        update (Update): Of an edge.
        base (Mapping): Weights that the round began with.
        bounds (Bounds): What is allowed.
    """
    wanted = floating(base)
    if update.delta.keys() != wanted.keys():
        return 'names'
    for name, value in wanted.items():
        if update.delta[name].shape != value.shape:
            return 'shape'
        if not update.delta[name].is_floating_point():
            return 'type'
    if not all(torch.isfinite(value).all() for value in update.delta.values()):
        return 'not finite'
    if update.examples < 1:
        return 'no examples'
    if norm(update.delta) > bounds.max_relative * norm(wanted):
        return 'norm'
    return None


def select(
    updates: Sequence[Update], base: State, bounds: Bounds
) -> tuple[list[Update], dict[str, str]]:
    """Split updates into those taken and the reasons for the others, by edge.

    An edge that sends twice counts once, with its last update.
    """
    taken: list[Update] = []
    refused: dict[str, str] = {}
    for update in {update.edge: update for update in updates}.values():
        reason = fault(update, base, bounds)
        if reason is None:
            taken.append(update)
        else:
            refused[update.edge] = reason
    if len(taken) >= 3:
        norms = {update.edge: norm(update.delta) for update in taken}
        for edge, size in norms.items():
            others = statistics.median(value for name, value in norms.items() if name != edge)
            if size > bounds.max_ratio * max(others, 1e-12):
                refused[edge] = 'norm'
        taken = [update for update in taken if update.edge not in refused]
    return taken, refused


def partial_sum(updates: Sequence[Update], bounds: Bounds) -> PartialSum:
    """Sum of examples times delta of some updates.

    Raises:
        ValueError: There are none.
    """
    if not updates:
        raise ValueError('updates is empty: there is nothing to add')
    weights = [min(update.examples, bounds.max_examples) for update in updates]
    sums = {
        name: sum(
            weight * update.delta[name].double()
            for weight, update in zip(weights, updates, strict=True)
        )
        for name in updates[0].delta
    }
    return PartialSum(sum(weights), sums)


def merge(parts: Sequence[PartialSum]) -> PartialSum:
    """Add sums.

    Raises:
        ValueError: There are none.
    """
    if not parts:
        raise ValueError('parts is empty: there is nothing to add')
    sums = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums}
    return PartialSum(sum(part.total for part in parts), sums)


def finish(base: State, part: PartialSum) -> dict[str, Tensor]:
    """New weights: base plus the mean delta; what is not averaged comes from ``base``."""
    state = {name: value.clone() for name, value in base.items()}
    for name, total in part.sums.items():
        state[name] = (base[name].double() + total / part.total).to(base[name].dtype)
    return state


def federated_average(base: State, updates: Sequence[Update], bounds: Bounds) -> dict[str, Tensor]:
    """New weights of a round: McMahan et al. 2017, Algorithm 1, weighted by examples.

    Args:
        base (Mapping): Weights that the round began with.
        updates (Sequence[Update]): That :func:`select` has taken.
        bounds (Bounds): For the cap on examples.

    Returns:
        dict: Weights, with the types of ``base``.

    Raises:
        ValueError: There are no updates.
    """
    return finish(base, partial_sum(updates, bounds))
