"""The phone's side: keys go to an edge, every frame comes out in time.

Each frame is made by the best of what is there when it is due: both keys around it, the key before
it, the colours of an earlier key, or the original frame. The way it took is told with it.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import cv2
import numpy as np

from .. import local_affine
from ..flow import resize
from ..interfaces import Frame, KeyFrame, KeyFramePolicy, Propagation, Upscaler
from ..upscalers import Bicubic
from .images import encode
from .link import Key, Reply


class Way(str, Enum):
    """How a frame was made, best first."""

    KEY = 'key'
    BIDIRECTIONAL = 'bidirectional'
    CAUSAL = 'causal affine'
    GLOBAL = 'global affine'
    ORIGINAL = 'original'


@dataclass(frozen=True)
class Output:
    """A frame that comes out.

    Args:
        index (int): Of the frame.
        frame (np.ndarray): uint8 (H, W, 3).
        way (Way): How it was made.
        latency (float): Seconds since it came in.
        tag: What came in with it.
    """

    index: int
    frame: Frame
    way: Way
    latency: float
    tag: Any = None


@dataclass(frozen=True)
class PlayerOptions:
    """How a phone plays; all ours.

    Args:
        latency_s (float): A frame leaves at most so long after it came (and the time of making it).
            One that is twice as late, as the phone itself is too slow, is made the cheap way.
            Default 0.5.
        lookahead (int): Frames held back at most while keys are on their way. Default 48.
        upload_side (int): Longest side of uploaded keys, larger frames are shrunk. Default 480.
        quality (int or None): JPEG quality of uploads; None: PNG. Default 90.
        realtime (bool): Frames come at their rate, as from a camera; else as fast as they are read.
    """

    latency_s: float = 0.5
    lookahead: int = 48
    upload_side: int = 480
    quality: int | None = 90
    realtime: bool = False

    def __post_init__(self) -> None:
        if self.latency_s <= 0 or self.lookahead < 1 or self.upload_side < 16:
            raise ValueError(
                f'latency_s={self.latency_s} must be positive, lookahead={self.lookahead} at least '
                f'1 and upload_side={self.upload_side} at least 16'
            )


class Sender(Protocol):
    """What takes keys: an :class:`~.link.EdgeLink`."""

    def offer(self, key: Key) -> None:
        """Queue a key; never blocks."""


@dataclass(eq=False)
class _Item:
    index: int
    frame: Frame
    scene: int
    key: bool
    came: float
    tag: Any


@dataclass(eq=False)
class _Slot:
    """A key that was offered."""

    item: _Item
    settled: bool = False
    version: int = 0
    key: KeyFrame | None = None


class Player:
    """Turns frames into stylised frames, never later than promised.

    Args:
        policy (KeyFramePolicy): Chooses keys and finds cuts.
        between (Propagation): For frames with keys on both sides.
        causal (Propagation): For frames with a key before them only.
        upscaler (Upscaler): Brings answers to the size of the frame for propagations that need it;
            None: bicubic.
        options (PlayerOptions): Times and sizes.

    Example:
        >>> player = Player(policy, FlowBlend(), AffinePropagation())
        >>> with EdgeLink(targets, credentials, style, player.on_reply) as link:
        ...     for output in player.play(((frame, None) for frame in frames), link):
        ...         show(output.frame)
    """

    def __init__(
        self,
        policy: KeyFramePolicy,
        between: Propagation,
        causal: Propagation,
        upscaler: Upscaler | None = None,
        options: PlayerOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._between = between
        self._causal = causal
        self._upscaler = upscaler or Bicubic()
        self.options = options or PlayerOptions()
        self._clock = clock
        self._pending: deque[_Item] = deque()
        self._slots: dict[int, _Slot] = {}
        self._global: np.ndarray | None = None
        self._news = threading.Condition()
        self._replies: deque[Reply] = deque()
        self.ways: Counter[str] = Counter()
        #: Seconds that the phone itself was behind a real-time stream at most.
        self.behind = 0.0

    def on_reply(self, reply: Reply) -> None:
        """Take an answer; called in the link's thread."""
        with self._news:
            self._replies.append(reply)
            self._news.notify()

    def play(
        self, frames: Iterable[tuple[Frame, Any]], sender: Sender, fps: float = 25
    ) -> Iterator[Output]:
        """Yield one output for each frame, in order.

        Args:
            frames (Iterable): (uint8 (H, W, 3), anything that comes out with it).
            sender (Sender): Where keys go; its answers must go to :meth:`on_reply`.
            fps (float): Rate of ``realtime`` play. Default 25.
        """
        began = self._clock()
        scene = -1
        for index, (frame, tag) in enumerate(frames):
            if self.options.realtime:
                moment = began + index / fps
                yield from self._until(moment)
                self.behind = max(self.behind, self._clock() - moment)
            decision = self._policy.decide(frame)
            scene += decision.cut or index == 0
            item = _Item(index, frame, scene, decision.key, self._clock(), tag)
            self._pending.append(item)
            if decision.key:
                self._send(item, sender, decision.cut or index == 0)
            yield from self._ready()
            while len(self._pending) > self.options.lookahead:
                self._wait(self._due(self._pending[0]))
                yield from self._ready()
        while self._pending:
            yield from self._ready(ended=True)
            if self._pending:
                self._wait(self._due(self._pending[0]))

    def _send(self, item: _Item, sender: Sender, starts: bool) -> None:
        self._slots[item.index] = _Slot(item)
        small = shrink(item.frame, self.options.upload_side)
        image = encode(small, self.options.quality)
        sender.offer(Key(item.index, image, starts, self._expires(item)))

    def _expires(self, item: _Item) -> float:
        # A late key still serves the frames after it, until the next keys do.
        return item.came + 4 * self.options.latency_s

    def _due(self, item: _Item) -> float:
        return item.came + self.options.latency_s

    def _hurry(self, item: _Item) -> bool:
        # Twice as late as promised: the phone itself is too slow for optical flow.
        return self._clock() > item.came + 2 * self.options.latency_s

    def _until(self, moment: float) -> Iterator[Output]:
        """Give out what becomes ready until a moment."""
        while True:
            yield from self._ready()
            now = self._clock()
            if now >= moment:
                return
            due = self._due(self._pending[0]) if self._pending else moment
            self._wait(min(moment, due))

    def _wait(self, moment: float) -> None:
        with self._news:
            if not self._replies:
                self._news.wait(max(0.0, moment - self._clock()))

    def _settle(self) -> None:
        """Take the answers that have come."""
        while True:
            with self._news:
                if not self._replies:
                    return
                reply = self._replies.popleft()
            if reply.frame is not None:
                self._policy.observe(reply.round_trip, reply.uploaded)
            slot = self._slots.get(reply.sequence)
            if slot is None:
                continue
            slot.settled = True
            if reply.frame is not None:
                slot.version = reply.version
                slot.key = KeyFrame(slot.item.index, slot.item.frame, reply.frame)
                self._global = colours(slot.item.frame, reply.frame)

    def _ready(self, ended: bool = False) -> Iterator[Output]:
        """Give out frames from the front as long as they are settled or due."""
        while self._pending:
            self._settle()
            item = self._pending[0]
            if not self._complete(item, ended) and self._clock() < self._due(item):
                return
            self._pending.popleft()
            frame, way = self._make(item)
            self.ways[way.value] += 1
            yield Output(item.index, frame, way, self._clock() - item.came, item.tag)
            self._forget(item)

    def _complete(self, item: _Item, ended: bool) -> bool:
        """Whether waiting longer can make the frame no better."""
        indices = sorted(i for i, slot in self._slots.items() if slot.item.scene == item.scene)
        # From the frame outwards, up to the first key that is there.
        for nearest in (
            [index for index in reversed(indices) if index <= item.index],
            [index for index in indices if index > item.index],
        ):
            for index in nearest:
                slot = self._slots[index]
                if not slot.settled:
                    return False
                if slot.key is not None:
                    if index >= item.index:
                        return True
                    break
        # No key after it yet: one may come unless the scene is over.
        over = ended or (bool(self._pending) and self._pending[-1].scene != item.scene)
        return over or not self._between.bidirectional

    def _make(self, item: _Item) -> tuple[Frame, Way]:
        keys = [
            slot
            for slot in self._slots.values()
            if slot.key is not None and slot.item.scene == item.scene
        ]
        past = max(
            (slot for slot in keys if slot.item.index <= item.index),
            key=lambda slot: slot.item.index,
            default=None,
        )
        future = min(
            (slot for slot in keys if slot.item.index > item.index),
            key=lambda slot: slot.item.index,
            default=None,
        )
        if self._global is not None and self._hurry(item):
            return local_affine.apply(item.frame, self._global), Way.GLOBAL
        if past is not None and past.item is item:
            return self._propagate(self._causal, item, past, None), Way.KEY
        # Keys of two models are not blended.
        if past is not None and future is not None and past.version == future.version:
            return self._propagate(self._between, item, past, future), Way.BIDIRECTIONAL
        if past is not None:
            return self._propagate(self._causal, item, past, None), Way.CAUSAL
        if self._global is not None:
            return local_affine.apply(item.frame, self._global), Way.GLOBAL
        return item.frame, Way.ORIGINAL

    def _propagate(
        self, mode: Propagation, item: _Item, past: _Slot, future: _Slot | None
    ) -> Frame:
        keys = [self._sized(slot, mode) if slot is not None else None for slot in (past, future)]
        return mode.propagate(item.frame, item.index, *keys)

    def _sized(self, slot: _Slot, mode: Propagation) -> KeyFrame:
        """The key with its stylised form in the size that the propagation needs."""
        key = slot.key
        height, width = slot.item.frame.shape[:2]
        if key is None or not mode.full_size or key.stylised.shape[:2] == (height, width):
            return key  # type: ignore[return-value]
        if 'full size' not in key.cache:
            full = self._upscaler.upscale(key.stylised, (height, width), key.frame)
            key.cache['full size'] = KeyFrame(key.index, key.frame, full)
        return key.cache['full size']

    def _forget(self, item: _Item) -> None:
        """Drop keys that no later frame can use."""
        usable = [
            slot.item.index
            for slot in self._slots.values()
            if slot.key is not None
            and slot.item.index <= item.index
            and slot.item.scene == item.scene
        ]
        newest = max(usable, default=-1)
        for index in [i for i, slot in self._slots.items() if i <= item.index]:
            slot = self._slots[index]
            old_scene = slot.item.scene < item.scene
            if old_scene or index < newest or (slot.settled and slot.key is None):
                del self._slots[index]


def shrink(frame: Frame, side: int) -> Frame:
    """The frame with its longest side at most ``side``."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def colours(frame: Frame, stylised: Frame) -> np.ndarray:
    """One affine colour transform for the whole frame, as :func:`.local_affine.apply` takes it.

    Args:
        frame (np.ndarray): uint8 (H, W, 3).
        stylised (np.ndarray): uint8 (h, w, 3), the same picture.
    """
    small = shrink(frame, 160)
    target = resize(stylised, small.shape[:2])
    return local_affine.constant(local_affine.fit_global(small, target), (1, 1))
