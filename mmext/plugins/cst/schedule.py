"""Burn-in, ramp and momentum that follow from the length of a training (ours)."""

from dataclasses import dataclass

AUTO = 'auto'
#: The burn-in is half of a short training and has at most so many iterations.
LONGEST_BURN_IN = 2000
#: The ramp is a quarter of what follows and has at most so many iterations.
LONGEST_RAMP_UP = 1000
#: What follows is this many time constants of the average, as far as the momentum's range allows.
TIME_CONSTANTS = 4
MOMENTUM_RANGE = (0.0004, 0.1)


@dataclass(frozen=True)
class Schedule:
    """Arguments of ``CycleTeacherHook``, all numbers."""

    burn_in: int
    ramp_up: int
    momentum: float


def schedule(
    iterations: int,
    burn_in: int | str = AUTO,
    ramp_up: int | str = AUTO,
    momentum: float | str = AUTO,
) -> Schedule:
    """Fill in what is ``'auto'``.

    The rule is near to what the trainings of this repository have: 950 iterations get 475, 118 and
    0.0084 (the demo has 500, 100 and 0.01), 1,400 get 700, 175 and 0.0057 (the study 600, 200 and
    0.004), and 180,000 get 2000, 1000 and 0.0004 as the configs for COCO.

    Args:
        iterations: Of the whole training, >= 1.
        burn_in, ramp_up, momentum: As ``CycleTeacherHook`` takes them, or ``'auto'``.

    Returns:
        All three; momentum within :data:`MOMENTUM_RANGE` where it was ``'auto'``.
    """
    if isinstance(burn_in, str):
        burn_in = min(iterations // 2, LONGEST_BURN_IN)
    taught = max(iterations - burn_in, 1)
    if isinstance(ramp_up, str):
        ramp_up = min(taught // 4, LONGEST_RAMP_UP)
    if isinstance(momentum, str):
        low, high = MOMENTUM_RANGE
        momentum = min(max(TIME_CONSTANTS / taught, low), high)
    return Schedule(burn_in, ramp_up, momentum)
