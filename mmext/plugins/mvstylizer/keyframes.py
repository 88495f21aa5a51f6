"""Which frames the network stylises (ours; the paper's abstract does not say).

Scene cuts are keys under every policy, see :class:`.KeyFramePolicy`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .flow import DISFlow, grey, warp
from .interfaces import Frame, KeyFramePolicy


class FixedInterval(KeyFramePolicy):
    """Every n-th frame.

    Args:
        interval: Frames from key to key, >= 1.
        scene_cut: Settings of :class:`.SceneCut`.

    Raises:
        ValueError: ``interval`` is below 1.

    Example:
        >>> policy = KEYFRAME_POLICIES.build(dict(type='mmext.FixedInterval', interval=16))
    """

    def __init__(self, interval: int = 16, scene_cut: Mapping[str, Any] | None = None) -> None:
        super().__init__(scene_cut)
        if interval < 1:
            raise ValueError(f'interval={interval} must be at least 1 frame')
        self.max_gap = interval

    def wants_key(self, frame: Frame, gap: int) -> bool:
        """Whether the interval is over."""
        return gap >= self.max_gap


class ResidualTrigger(KeyFramePolicy):
    """A key when flow no longer explains the frame from the last key.

    The last key's original is warped to the frame; its PSNR tells the error of a propagated
    stylised frame without any stylised frame at hand.

    Args:
        threshold: PSNR in dB below which a key is due; higher: more keys.
        min_gap: Fewest frames between keys, >= 1; scene cuts excepted.
        max_gap: Most frames between keys, >= ``min_gap``.
        side: Longer side in pixels at which residuals are computed, >= 32.
        scene_cut: Settings of :class:`.SceneCut`.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> policy = KEYFRAME_POLICIES.build(dict(type='mmext.ResidualTrigger', threshold=26))

    Cost: one flow at ``side`` a frame.
    """

    def __init__(
        self,
        threshold: float = 26.0,
        min_gap: int = 4,
        max_gap: int = 32,
        side: int = 320,
        scene_cut: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scene_cut)
        if not 1 <= min_gap <= max_gap or side < 32 or not threshold > 0:
            raise ValueError(
                f'min_gap={min_gap} and max_gap={max_gap} must be in order and at least 1, '
                f'side={side} at least 32 and threshold={threshold} above 0'
            )
        self.threshold = threshold
        self.min_gap = min_gap
        self.max_gap = max_gap
        self.side = side
        self.flow = DISFlow('ultrafast')
        self.key: np.ndarray | None = None

    def start(self, frame: Frame) -> None:
        """Keep the small grey image of a key."""
        self.key = grey(frame, self.side)

    def wants_key(self, frame: Frame, gap: int) -> bool:
        """Whether the residual is due or the gap is full."""
        if gap >= self.max_gap:
            return True
        return gap >= self.min_gap and self.residual(frame) < self.threshold

    def residual(self, frame: Frame) -> float:
        """PSNR in dB of the last key, warped to the frame."""
        if self.key is None:
            raise ValueError('there is no key frame yet')
        now = grey(frame, self.side)
        if now.shape != self.key.shape:
            return 0.0
        warped = warp(self.key, self.flow(now, self.key))
        error = np.mean((warped.astype(np.float32) - now) ** 2)
        return float(10 * np.log10(255**2 / max(error, 1e-3)))


class BudgetAware(ResidualTrigger):
    """A residual trigger that keeps to what link and server can take.

    A token bucket fills with ``budget`` keys a second; a key costs one token and, once
    :meth:`observe` has told of a round trip, none is asked for before the last is likely back. A
    key that is due waits for its token; scene cuts are keys at once and may leave the bucket empty.

    Args:
        budget: Keys a second, > 0.
        fps: Frames a second of the stream, > 0.
        burst: Tokens the bucket holds, >= 1.
        **kwargs: Of :class:`ResidualTrigger`; ``max_gap`` gives way to the budget.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> policy = KEYFRAME_POLICIES.build(dict(type='mmext.BudgetAware', budget=2, fps=25))
    """

    def __init__(
        self, budget: float = 2.0, fps: float = 30.0, burst: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not budget > 0 or not fps > 0 or burst < 1:
            raise ValueError(
                f'budget={budget} and fps={fps} must be above 0, burst={burst} at least 1'
            )
        self.budget = budget
        self.fps = fps
        self.burst = burst
        self.tokens = burst
        self.round_trip = 0.0

    def reset(self) -> None:
        """Forget the stream and fill the bucket."""
        super().reset()
        self.tokens = self.burst
        self.round_trip = 0.0

    def start(self, frame: Frame) -> None:
        """Take a token."""
        super().start(frame)
        self.tokens = max(self.tokens - 1, 0.0)

    def wants_key(self, frame: Frame, gap: int) -> bool:
        """Whether a key is due and can be afforded."""
        self.tokens = min(self.tokens + self.budget / self.fps, self.burst)
        if self.tokens < 1 or gap < self.round_trip * self.fps:
            return False
        return super().wants_key(frame, gap)

    def observe(self, round_trip: float, uploaded: int) -> None:
        """Follow the round trip, quickly upwards and slowly downwards."""
        rate = 0.5 if round_trip > self.round_trip else 0.125
        self.round_trip += rate * (round_trip - self.round_trip)
