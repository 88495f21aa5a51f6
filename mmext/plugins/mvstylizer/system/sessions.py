"""What an edge remembers of a stream."""

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..interfaces import Frame, StyleCode
from . import logs
from .images import ImageLimits, decode, encode
from .stylizers import VersionedStylizers


@dataclass(frozen=True)
class Outcome:
    """A stylised key.

    Args:
        image (bytes): Encoded.
        version (int): Of the model that made it.
        swapped (bool): The model changed at this key.
    """

    image: bytes
    version: int
    swapped: bool


class Session:
    """Style, model version and running statistics of one stream.

    One version serves a whole scene: it changes only at a key that starts a scene. All but the
    constructor runs in the thread of the session's worker.

    Args:
        device (str): Whose it is.
        style (bytes): Style picture, encoded.
        version (int or None): Model that the running scene began with; None: the current one. Where
            it is not here any more, the current one is taken and the phone told.
        stylizers (VersionedStylizers): Of this edge.
        limits (ImageLimits): Of pictures.
        quality (int or None): Of answers, see :func:`~.images.encode`.
        collect (Callable): Takes (device, frame) of each key; None: nothing is kept.
    """

    def __init__(
        self,
        device: str,
        style: bytes,
        version: int | None,
        stylizers: VersionedStylizers,
        limits: ImageLimits,
        quality: int | None,
        collect: Callable[[str, Frame], object] | None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.device = device
        self.last_sequence = -1
        self.version = -1 if version is None else version
        self._style_bytes = style
        self._style: Frame | None = None
        self._code: StyleCode | None = None
        self._memory: dict = {}
        self._stylizers = stylizers
        self._limits = limits
        self._quality = quality
        self._collect = collect
        self._begun = False
        self._lock = threading.Lock()

    def start(self) -> int:
        """Decode and encode the style; return the version of the first scene.

        Raises:
            ImageError: The style is refused.
        """
        with self._lock:
            self._style = decode(self._style_bytes, self._limits)
            self._style_bytes = b''
            if not self._stylizers.has(self.version):
                self.version = self._stylizers.current
            self._code = self._stylizers.get(self.version).encode_style(self._style)
            return self.version

    def stylize(self, image: bytes, scene_start: bool) -> Outcome:
        """Stylise a key.

        Raises:
            ImageError: The picture is refused.
            RuntimeError: The session was not started.
        """
        with self._lock:
            if self._style is None or self._code is None:
                raise RuntimeError('start() comes first')
            frame = decode(image, self._limits)
            swapped = False
            if scene_start:
                self._memory = {}
                newest = self._stylizers.current
                # The version of the first scene was settled at Open.
                if self._begun and newest != self.version:
                    code = self._stylizers.get(newest).encode_style(self._style)
                    self.version, self._code, swapped = newest, code, True
            self._begun = True
            stylizer = self._stylizers.get(self.version)
            styled = stylizer.stylize(frame, self._code, self._memory)
            self._keep(frame)
            return Outcome(encode(styled, self._quality), self.version, swapped)

    def _keep(self, frame: Frame) -> None:
        if self._collect is None:
            return
        try:
            self._collect(self.device, frame)
        except OSError as error:
            # The phone waits for its picture, not for ours.
            logs.event('frame not kept', logging.WARNING, session=self.id, reason=str(error))
