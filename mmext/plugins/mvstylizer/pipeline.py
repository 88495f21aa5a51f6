"""Frames in, stylised frames out, one after the other and with bounded memory."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .flow import resize, working_size
from .interfaces import (
    Frame,
    KeyFrame,
    KeyFramePolicy,
    Propagation,
    Stylizer,
    Upscaler,
    check_frame,
)
from .keyframes import FixedInterval
from .propagation import FlowBlend


@dataclass
class Counts:
    """What a run did.

    Attributes:
        frames: Frames given out.
        keys: Frames that went through the network.
        cuts: Scene cuts.
        gaps: Frames from key to key.
        forced: Keys that the policy did not ask for, set since too many frames waited for one.
    """

    frames: int = 0
    keys: int = 0
    cuts: int = 0
    forced: int = 0
    gaps: list[int] = field(default_factory=list)


class VideoStylizer:
    """Stylise a stream of frames: key frames by a network, the others by propagation.

    Args:
        stylizer: :class:`.Stylizer` or its config.
        style: Style image, uint8 (H, W, 3).
        policy: :class:`.KeyFramePolicy` or its config; default every 16th frame.
        propagation: :class:`.Propagation` or its config; default ``mmext.FlowBlend``.
        upscaler: :class:`.Upscaler` or its config; default ``mmext.MetaSmoothing``. Only asked
            where the network worked on a smaller frame and the propagation warps pixels.
        network_side: Longer side in pixels at which the network works, >= 32; 0: at full size.
            Stylizers that are ``resolution_free`` always work at full size.
        max_wait: Most frames that wait for the key after them, >= 1; then one is set. This bounds
            memory and delay.
        keep_statistics: Let the stylizer follow its content statistics through a scene.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> stylise = VideoStylizer(dict(type='mmext.MKLColorTransfer'), style)
        >>> for frame in stylise(frames):
        ...     show(frame)
    """

    def __init__(
        self,
        stylizer: Stylizer | Mapping[str, Any],
        style: Frame,
        policy: KeyFramePolicy | Mapping[str, Any] | None = None,
        propagation: Propagation | Mapping[str, Any] | None = None,
        upscaler: Upscaler | Mapping[str, Any] | None = None,
        network_side: int = 480,
        max_wait: int = 48,
        keep_statistics: bool = True,
    ) -> None:
        if network_side and network_side < 32:
            raise ValueError(f'network_side={network_side} must be 0 (full size) or at least 32')
        if max_wait < 1:
            raise ValueError(f'max_wait={max_wait} must be at least 1 frame')
        self.stylizer: Stylizer = _built('STYLIZERS', stylizer)
        self.policy: KeyFramePolicy = _built('KEYFRAME_POLICIES', policy or FixedInterval())
        self.propagation: Propagation = _built('PROPAGATIONS', propagation or FlowBlend())
        self._upscaler: Any = upscaler
        self.network_side = network_side
        self.max_wait = max_wait
        self.keep_statistics = keep_statistics
        self.code = self.stylizer.encode_style(check_frame(style, 'style'))
        self.counts = Counts()

    @property
    def upscaler(self) -> Upscaler:
        """The upscaler, built when it is first needed."""
        if self._upscaler is None:
            from .meta_smoothing import MetaSmoothing

            self._upscaler = MetaSmoothing()
        self._upscaler = _built('UPSCALERS', self._upscaler)
        return self._upscaler

    def __call__(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Stylised frames of one stream, as many as came in and in their order.

        Raises:
            ValueError: A frame has another size than the first.
        """
        self.policy.reset()
        self.counts = Counts()
        memory: dict[str, Any] = {}
        past: KeyFrame | None = None
        waiting: list[tuple[int, Frame]] = []
        shape = None
        for index, frame in enumerate(frames):
            if check_frame(frame).shape != (shape := shape or frame.shape):
                raise ValueError(f'frame {index} has size {frame.shape}, the first one {shape}')
            key, cut = self.policy.decide(frame)
            forced = not key and len(waiting) >= self.max_wait
            if not key and not forced:
                if not self.propagation.bidirectional:
                    yield self._between(frame, index, past, None)
                else:
                    waiting.append((index, frame))
                continue
            if cut:
                memory.clear()
            new = self._key(frame, index, memory)
            self.counts.cuts += cut
            self.counts.forced += forced
            if past is not None:
                self.counts.gaps.append(index - past.index)
            if forced:
                self.policy.gap = 0
                self.policy.start(frame)
            future = None if cut else new
            for number, waited in waiting:
                yield self._between(waited, number, past, future)
            waiting.clear()
            past = new
            yield self._between(frame, index, past, None)
        for number, waited in waiting:
            yield self._between(waited, number, past, None)

    def _key(self, frame: Frame, index: int, memory: dict[str, Any]) -> KeyFrame:
        """Stylise a key frame, at the size that the propagation needs."""
        size = frame.shape[:2]
        small = size
        if self.network_side and not self.stylizer.resolution_free:
            small = working_size(size, self.network_side)
        kept = memory if self.keep_statistics else None
        stylised = self.stylizer.stylize(resize(frame, small), self.code, kept)
        if self.propagation.full_size and small != size:
            stylised = self.upscaler.upscale(stylised, size, guide=frame)
        self.counts.keys += 1
        return KeyFrame(index, frame, stylised)

    def _between(
        self, frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None
    ) -> Frame:
        self.counts.frames += 1
        return self.propagation.propagate(frame, index, past, future)


def _built(registry: str, part: Any) -> Any:
    """A part, or what the registry of that name makes of its config."""
    if not isinstance(part, Mapping):
        return part
    from mmext import registry as registries

    return getattr(registries, registry).build(dict(part))
