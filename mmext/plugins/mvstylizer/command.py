"""Stylise a video file: what ``mmext stylize`` does."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from .flow import resize
from .interfaces import Frame, check_size
from .pipeline import Counts, VideoStylizer
from .video import VideoReader, VideoWriter


class Report(NamedTuple):
    """What was done: counts of the run, size of the frames, seconds and frames per second."""

    counts: Counts
    size: tuple[int, int]
    seconds: float
    fps: float


def read_image(path: str | Path, name: str = 'style') -> Frame:
    """Image file as a frame.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{name} image {path} does not exist')
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise ValueError(f'{name} {path} is not an image that OpenCV can read')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def stylize_file(
    source: str | Path,
    style: str | Path,
    target: str | Path,
    *,
    size: tuple[int, int] | None = None,
    compare: bool = False,
    sound: bool = True,
    encoder: str | None = None,
    on_frame: Callable[[int, int | None], None] | None = None,
    **settings: Any,
) -> Report:
    """Stylise a video file, frame by frame and with bounded memory.

    Time stamps, frame rate, sound, shape of pixels and the way the picture is turned are those of
    the source.

    Args:
        source: Video, any container that FFmpeg reads.
        style: Image file.
        target: Result; its suffix tells the container. It appears when it is complete.
        size: (height, width) of the result; default the source's.
        compare: Put the original beside the stylised frame, which doubles the width.
        sound: Keep the sound.
        encoder: FFmpeg's name of an encoder; default by the container.
        on_frame: Called after each frame with frames done and frames expected, if known.
        **settings: Of :class:`.VideoStylizer`, as ``stylizer`` and ``propagation``.

    Returns:
        Counts and speed.

    Raises:
        FileNotFoundError: ``source`` or ``style`` does not exist.
        ValueError: One of the files cannot be read or written; nothing stays under ``target``.
    """
    stylise = VideoStylizer(style=read_image(style), **settings)
    began = time.perf_counter()
    with VideoReader(source) as reader:
        height, width = check_size(size or reader.size)
        shown = (height, 2 * width) if compare else (height, width)
        with VideoWriter(target, shown, reader, sound=sound, encoder=encoder) as writer:
            # Frames that wait for a key, with their times.
            waiting: list[tuple[int, Frame | None]] = []

            def originals() -> Iterator[Frame]:
                for frame in reader.frames(writer.sound):
                    image = resize(frame.image, (height, width))
                    waiting.append((frame.pts, image if compare else None))
                    yield image

            for frame in stylise(originals()):
                pts, original = waiting.pop(0)
                if original is not None:
                    frame = np.concatenate([original, frame], 1)
                writer.write(frame, pts)
                if on_frame is not None:
                    on_frame(stylise.counts.frames, reader.expected_frames)
            writer.finish()
    seconds = time.perf_counter() - began
    return Report(stylise.counts, shown, seconds, stylise.counts.frames / seconds)
