"""Video files in and out by PyAV: frames, time stamps, sound and rotation."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import av
except ImportError as error:
    raise ImportError("video files need PyAV: pip install 'mmext[video]'", name='av') from error

from .interfaces import Frame, check_frame, check_size

#: Suffix -> encoder and its options. Others: the default encoder of the container.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    suffix: ('libx264', {'crf': '18', 'preset': 'veryfast'})
    for suffix in ('.mp4', '.mkv', '.mov', '.m4v', '.ts', '.flv')
} | {'.webm': ('libvpx-vp9', {'crf': '30', 'b': '0', 'deadline': 'realtime', 'cpu-used': '6'})}

#: swscale's names of FFmpeg's colour matrices.
_COLORSPACES = {1: 'ITU709', 4: 'FCC', 5: 'ITU601', 6: 'ITU601', 7: 'SMPTE240M'}


class VideoError(ValueError):
    """A video file cannot be read or written; the message says which and why."""


class TimedFrame(NamedTuple):
    """A frame as a player shows it, uint8 (H, W, 3), and its time in units of the time base."""

    image: Frame
    pts: int


class VideoReader:
    """Read a video file frame by frame, with the packets of its sound.

    Frames come turned as a player shows them. Counts in headers are not trusted.

    Args:
        path: Any container that FFmpeg reads.

    Attributes:
        size: (height, width) as shown.
        rate: Frames per second, a fraction.
        pixel_aspect: Width of a pixel by its height, as shown; None: not told.
        time_base: Seconds per unit of :attr:`TimedFrame.pts`.
        audio: Streams of sound.

    Raises:
        FileNotFoundError: There is no such file.
        VideoError: It is no video, or its first frame cannot be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f'video {path} does not exist')
        try:
            self.container = av.open(str(path))
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(
                f'{path} is not a video that FFmpeg can read, or is cut off ({_told(error)})'
            ) from error
        try:
            self._prepare()
        except BaseException:
            self.container.close()
            raise

    def _prepare(self) -> None:
        if not self.container.streams.video:
            raise VideoError(f'{self.path} has no video stream')
        self.video = self.container.streams.video[0]
        self.video.thread_type = 'AUTO'
        self.audio = list(self.container.streams.audio)
        self.rate = Fraction(self.video.average_rate or self.video.guessed_rate or 25)
        self.time_base = Fraction(self.video.time_base or 1 / self.rate)
        self._step = max(1, round(1 / (self.rate * self.time_base)))
        self._seen = 0
        self._end: int | None = None
        self._sound_end = 0.0
        self._start = self.video.start_time
        self._events = self._decoded()
        # Sound may come before the first frame.
        self._peeked: list[Any] = []
        for event in self._events:
            self._peeked.append(event)
            if isinstance(event, tuple):
                break
        else:
            raise VideoError(f'{self.path} has no frame that can be decoded')
        image = self._peeked[-1][0]
        self.colors = {
            name: getattr(image, name) for name in ('colorspace', 'color_primaries', 'color_trc')
        }
        self.turns = round(image.rotation / 90) % 4
        self._stored = image.width, image.height
        self.size = self._stored if self.turns % 2 else self._stored[::-1]
        shape = self.video.sample_aspect_ratio
        self.pixel_aspect = Fraction(shape) if shape else None
        if self.pixel_aspect and self.turns % 2:
            self.pixel_aspect = 1 / self.pixel_aspect

    @property
    def expected_frames(self) -> int | None:
        """Frames that the header promises; good for a progress bar only."""
        if self.video.frames:
            return int(self.video.frames)
        seconds = self._duration()
        return None if seconds is None else max(1, round(seconds * self.rate))

    def frames(self, on_sound: Callable[[Any], None] | None = None) -> Iterator[TimedFrame]:
        """All frames in their order, once.

        Args:
            on_sound: Called with each packet of sound as it is met.

        Raises:
            VideoError: A frame cannot be decoded, or the file ends long before its duration.
        """
        peeked, self._peeked = self._peeked, []
        if not peeked:
            raise VideoError('a VideoReader gives its frames once; open the file again')
        for event in chain(peeked, self._events):
            if isinstance(event, tuple):
                yield self._timed(*event)
            elif on_sound is not None:
                on_sound(event)
        seconds = self._duration()
        end = float(((self._end or 0) - (self._start or 0)) * self.time_base)
        if self.video.duration is None:
            # The duration is the container's: sound may outlast the picture.
            end = max(end, self._sound_end)
        if seconds is not None and end < 0.95 * seconds - 0.5:
            raise VideoError(
                f'{self.path} is cut off: it ends after {end:.1f} s, its header says '
                f'{seconds:.1f} s'
            )

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def __enter__(self) -> 'VideoReader':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decoded(self) -> Iterator[Any]:
        """Packets of sound, and pairs of a decoded frame and its time."""
        last: int | None = None
        try:
            for packet in self.container.demux(self.video, *self.audio):
                if packet.stream.index != self.video.index:
                    if packet.dts is not None:
                        self._sound_end = max(self._sound_end, float(packet.dts * packet.time_base))
                        yield packet
                    continue
                if packet.is_corrupt:
                    raise VideoError(f'{self.path} is damaged or cut off at frame {self._seen}')
                for frame in packet.decode():
                    pts = frame.pts
                    if pts is None or (last is not None and pts <= last):
                        # Raw streams have no times, broken files have some twice.
                        pts = 0 if last is None else last + self._step
                    last = pts
                    self._start = pts if self._start is None else self._start
                    self._seen += 1
                    self._end = pts + self._step
                    yield frame, pts
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(
                f'{self.path} cannot be decoded after frame {self._seen}: damaged or cut off '
                f'({_told(error)})'
            ) from error

    def _duration(self) -> float | None:
        if self.video.duration is not None:
            return float(self.video.duration * self.time_base)
        if self.container.duration is not None:
            return self.container.duration / av.time_base
        return None

    def _timed(self, frame: Any, pts: int) -> TimedFrame:
        width, height = self._stored
        image = frame.to_ndarray(format='rgb24', width=width, height=height)
        if self.turns:
            image = np.ascontiguousarray(np.rot90(image, self.turns))
        return TimedFrame(image, pts)


class VideoWriter:
    """Write a video file that appears under its name only when it is complete.

    It is written beside its name and moved there by :meth:`finish`; leaving the ``with`` block
    without it, by an error or else, removes it. An existing file is replaced at the end.

    Args:
        path: The suffix tells the container.
        size: (height, width); an odd one is kept by 4:4:4 sampling of colours.
        source: Reader whose rate, time base, colours, sound and shape of pixels the file takes
            over.
        sound: Keep the sound.
        encoder: Name of FFmpeg's encoder; default :data:`ENCODERS` or the container's.
        options: Options of the encoder.

    Raises:
        VideoError: Container, encoder or sound do not go together, ``path`` is a folder or the
            source, or the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        source: VideoReader,
        sound: bool = True,
        encoder: str | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.size = check_size(size)
        if not self.path.parent.is_dir():
            raise VideoError(f'folder {self.path.parent} does not exist')
        if self.path.is_dir():
            raise VideoError(f'{path} is a folder; give the name of a file for the result')
        if self.path.exists() and self.path.samefile(source.path):
            raise VideoError(f'{path} is the source itself; choose another name for the result')
        self.draft = self.path.with_name(f'.{self.path.stem}.{os.getpid()}{self.path.suffix}')
        self._file = _File(self.draft)
        self._sounds: dict[int, Any] = {}
        self._finished = False
        try:
            self.container = av.open(self._file, 'w')
        except (av.error.FFmpegError, ValueError, OSError) as error:
            self._remove()
            raise VideoError(
                f'{path}: no container for the suffix {self.path.suffix!r} ({_told(error)}); '
                'try .mp4 or .mkv'
            ) from error
        try:
            self._open(source, sound, encoder, dict(options or {}))
        except (av.error.FFmpegError, ValueError, OSError) as error:
            self.abort()
            raise VideoError(
                f'{path}: the container cannot hold this video or its sound ({_told(error)}); '
                'try .mkv, or leave the sound out'
            ) from error

    def _open(
        self, source: VideoReader, sound: bool, encoder: str | None, options: dict[str, str]
    ) -> None:
        known, settings = ENCODERS.get(self.path.suffix.lower(), (None, {}))
        name = encoder or known or self.container.default_video_codec
        settings = {**(settings if name == known else {}), **options}
        video: Any = self.container.add_stream(name, rate=source.rate, options=settings)
        height, width = self.size
        video.width, video.height = width, height
        video.pix_fmt = 'yuv444p' if height % 2 or width % 2 else 'yuv420p'
        video.thread_type = 'AUTO'
        context = video.codec_context
        context.time_base = video.time_base = source.time_base
        if source.pixel_aspect:
            context.sample_aspect_ratio = source.pixel_aspect
        for key, value in source.colors.items():
            setattr(context, key, value)
        self._colorspace = _COLORSPACES.get(int(source.colors['colorspace']))
        self.video = video
        for stream in source.audio if sound else ():
            self._sounds[stream.index] = self.container.add_stream_from_template(stream)
        self.container.start_encoding()

    def write(self, image: Frame, pts: int) -> None:
        """Add a frame, uint8 (H, W, 3), at a time in units of the source's time base.

        Raises:
            VideoError: It has another size, or cannot be written.
        """
        if check_frame(image).shape[:2] != self.size:
            raise VideoError(f'frame has size {image.shape[:2]}, the file {self.size}')
        frame = av.VideoFrame.from_ndarray(image, format='rgb24')
        frame = frame.reformat(format=self.video.pix_fmt, dst_colorspace=self._colorspace)
        frame.pts, frame.time_base = pts, self.video.codec_context.time_base
        self._do(lambda: self.container.mux(self.video.encode(frame)))

    def sound(self, packet: Any) -> None:
        """Add a packet of sound of the source; ignored where sound is left out."""
        stream = self._sounds.get(packet.stream.index)
        if stream is not None:
            packet.stream = stream
            self._do(lambda: self.container.mux(packet))

    def finish(self) -> None:
        """Complete the file and give it its name.

        Raises:
            VideoError: It could not be written to the end.
        """
        self._do(lambda: self.container.mux(self.video.encode(None)))
        self._do(self.container.close)
        self._do(self._file.sync)
        self._do(lambda: os.replace(self.draft, self.path))
        self._finished = True

    def abort(self) -> None:
        """Remove what has been written."""
        with suppress(av.error.FFmpegError, ValueError, OSError):
            self.container.close()
        self._remove()

    def __enter__(self) -> 'VideoWriter':
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self.abort()

    def _remove(self) -> None:
        with suppress(OSError):
            self._file.close()
        self.draft.unlink(missing_ok=True)

    def _do(self, action: Callable[[], Any]) -> None:
        try:
            action()
            error: BaseException | None = self._file.error
        except (av.error.FFmpegError, ValueError, OSError) as raised:
            # FFmpeg's own code for a failed write says less than the system's.
            error = self._file.error or raised
        if error is not None:
            self.abort()
            raise VideoError(f'{self.path} cannot be written: {_told(error)}') from error


class _File:
    """File for FFmpeg that remembers the first error of the system."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.error: OSError | None = None
        try:
            self._file = open(path, 'w+b', buffering=1 << 20)  # noqa: SIM115
        except OSError as error:
            raise VideoError(f'{path.parent} cannot be written to: {_told(error)}') from error

    def write(self, data: bytes) -> int:
        return self._guarded(self._file.write, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._guarded(self._file.seek, offset, whence)

    def read(self, size: int = -1) -> bytes:
        return self._guarded(self._file.read, size)

    def tell(self) -> int:
        return self._file.tell()

    def sync(self) -> None:
        """Wait until all is on the disk, where a full one shows at the latest."""
        self._guarded(self._file.flush)
        self._guarded(os.fsync, self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def _guarded(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            self.error = self.error or error
            raise


def _told(error: BaseException) -> str:
    """Short reason of an error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
