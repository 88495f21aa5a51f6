"""Statistics of differences between two arms that share seed, data order and initial weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from evidence import paired

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """Mean of paired differences with its interval; ``low`` and ``high`` are None for one pair."""

    mean: float
    low: float | None
    high: float | None
    values: list[float]


def difference(ours: Sequence[float], rival: Sequence[float]) -> Difference:
    """Ours minus rival, pair by pair, with the 95 % interval of the mean by Student's t.

    Args:
        ours: A value for each seed.
        rival: Those of the other arm for the same seeds in the same order.

    Raises:
        ValueError: The two are not of the same length.
    """
    from scipy.stats import t

    values = [a - b for a, b in zip(ours, rival, strict=True)]
    mean, error = paired(values)
    if len(values) < 2:
        return Difference(mean, None, None, values)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Difference(mean, mean - reach, mean + reach, values)


def seeds_needed(std: float, effect: float) -> int:
    """Seeds with which two standard errors of the mean difference are at most the effect.

    Args:
        std: Standard deviation of paired differences, as a pilot finds it.
        effect: Smallest difference that the study has to see, above 0.

    Returns:
        ``(2 std / effect) ** 2``, rounded up, and 3 at least.

    Raises:
        ValueError: The effect is not above 0.
    """
    if not effect > 0:
        raise ValueError(f'effect={effect} must be above 0: the smallest difference to be seen')
    # A rounding error of the square must not cost a seed.
    return max(3, math.ceil((2 * std / effect) ** 2 * (1 - 1e-12)))
