"""What one device may ask of an edge."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of an edge; all are ours.

    Args:
        max_message_bytes (int): Of one protobuf message; larger ones end the stream. 5 MiB.
        max_image_bytes (int): Of one compressed picture. 4 MiB.
        max_side (int): Longest side of a picture, pixels. 4096.
        max_pixels (int): Width times height. 8 294 400.
        max_in_flight (int): Keys of a session that are read and not yet answered; the stream is not
            read further until the phone has taken an answer. 4.
        queue (int): Keys of all sessions that wait for a worker; above it they are refused. 64.
        keys_per_s (float): Keys of one device per second, on average. 15.
        burst (int): Keys a device may send at once. 30.
        sessions_per_device (int): Streams of one device at a time. 2.
        sessions (int): Streams of all devices. 256.
        open_timeout_s (float): From the call to its Open. 10.
        idle_timeout_s (float): Without a key. 120.
        write_timeout_s (float): Until the phone has taken an answer; a slower reader is cut. 10.
        drain_s (float): Time that accepted keys have at shutdown. 10.
    """

    max_message_bytes: int = 5 << 20
    max_image_bytes: int = 4 << 20
    max_side: int = 4096
    max_pixels: int = 3840 * 2160
    max_in_flight: int = 4
    queue: int = 64
    keys_per_s: float = 15
    burst: int = 30
    sessions_per_device: int = 2
    sessions: int = 256
    open_timeout_s: float = 10
    idle_timeout_s: float = 120
    write_timeout_s: float = 10
    drain_s: float = 10

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f'limits.{name}={value} must be positive')
        if self.max_message_bytes <= self.max_image_bytes:
            raise ValueError(
                f'limits.max_message_bytes={self.max_message_bytes} must exceed '
                f'max_image_bytes={self.max_image_bytes}: a message holds a picture and its header'
            )


class TokenBucket:
    """Allows ``rate`` events per second on average and ``burst`` at once.

    Args:
        rate (float): Events per second, positive.
        burst (float): Events at once, at least 1.
        clock (Callable): Monotonic seconds.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level = float(burst)
        self._at = clock()

    def take(self, amount: float = 1) -> float:
        """Take ``amount``; return 0, or the seconds until that much is there (and take nothing)."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level >= amount:
            self._level -= amount
            return 0
        return (amount - self._level) / self._rate

    @property
    def full(self) -> bool:
        """Whether it is as new."""
        return self._level + (self._clock() - self._at) * self._rate >= self._burst


class DeviceQuota:
    """Sessions and rates of all devices of an edge.

    Args:
        limits (Limits): What a device may do.
        clock (Callable): Monotonic seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._sessions: dict[str, int] = {}
        self._buckets: dict[str, TokenBucket] = {}

    @property
    def sessions(self) -> int:
        """Open sessions of all devices."""
        return sum(self._sessions.values())

    def enter(self, device: str) -> bool:
        """Count a session in; False: the device or the edge has enough of them."""
        open_now = self._sessions.get(device, 0)
        if open_now >= self._limits.sessions_per_device or self.sessions >= self._limits.sessions:
            return False
        self._sessions[device] = open_now + 1
        return True

    def leave(self, device: str) -> None:
        """Count a session out."""
        self._sessions[device] -= 1
        if not self._sessions[device]:
            del self._sessions[device]
        # A bucket that is full again tells no more than a new one.
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if name in self._sessions or not bucket.full
        }

    def take(self, device: str) -> float:
        """Count a key; return 0, or the seconds after which the device may try again."""
        bucket = self._buckets.get(device)
        if bucket is None:
            bucket = TokenBucket(self._limits.keys_per_s, self._limits.burst, self._clock)
            self._buckets[device] = bucket
        return bucket.take()
