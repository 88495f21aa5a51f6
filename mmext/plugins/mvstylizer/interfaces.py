"""What the parts of MVStylizer ask of each other; imports neither PyAV nor grpc.

A frame is a uint8 array (H, W, 3) in RGB. A phone decodes frames, asks a :class:`KeyFramePolicy`
which are key frames, has those stylised by a :class:`Stylizer` (brought to size by an
:class:`Upscaler`) and makes the others with a :class:`Propagation` from the :class:`KeyFrame`
before and, where it has come, the one after.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .frames import Frame as Frame
from .frames import check_frame as check_frame
from .frames import check_size as check_size
from .scene_cut import SceneCut

#: What a stylizer keeps of a style image: names -> float32 arrays. Nothing else, so it can be
#: stored and sent without pickle.
StyleCode: TypeAlias = dict[str, np.ndarray]


def pack_style(code: StyleCode) -> bytes:
    """Style code as bytes (NumPy's npz, no pickle)."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in code.items()}
    np.savez(file, **arrays)
    return file.getvalue()


def unpack_style(data: bytes) -> StyleCode:
    """Inverse of :func:`pack_style`.

    Raises:
        ValueError: The bytes are no style code.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy raises whatever zipfile, struct or the header parser raise
        raise ValueError('the bytes are no style code of pack_style') from error


class Stylizer(ABC):
    """Gives a frame the colours and tones of a style image.

    Trained stylizers are MMEngine models as well (``torch.nn.Module``): they load a
    ``state_dict``, and ``forward(photos, mode='loss')`` with photos float (N, 3, H, W) in [0, 255]
    gives their self-supervised losses, so they train on any frames.
    """

    #: Whether a frame costs little at any resolution, so that it need not be made small.
    resolution_free = False

    @abstractmethod
    def encode_style(self, style: Frame) -> StyleCode:
        """What :meth:`stylize` needs to know of the style image; computed once per style."""

    @abstractmethod
    def stylize(self, frame: Frame, code: StyleCode, memory: dict[str, Any] | None = None) -> Frame:
        """Stylise a frame of any size; the result has the same size.

        Args:
            frame: uint8 (H, W, 3).
            code: Of :meth:`encode_style` of this stylizer.
            memory: A dict that the caller keeps for one scene, empty at its start. The stylizer
                keeps running statistics of the content there, so that neighbouring key frames do
                not jump. None: each frame by itself.
        """


class Upscaler(ABC):
    """Brings a stylised frame to a size."""

    @abstractmethod
    def upscale(self, frame: Frame, size: tuple[int, int], guide: Frame | None = None) -> Frame:
        """Frame at exactly ``size`` = (height, width).

        Args:
            frame: Stylised, uint8 (h, w, 3).
            size: Any height and width; the two scales may differ.
            guide: The original frame at ``size``; for upscalers that use it.
        """


@dataclass(eq=False)
class KeyFrame:
    """A frame with its stylised form.

    Attributes:
        index: Number of the frame in its stream; orders frames and is the measure of distance.
        frame: The original, uint8 (H, W, 3).
        stylised: uint8; of the size of ``frame`` for propagations that warp its pixels
            (``Hold``, ``WarpPrevious``, ``FlowBlend``), of any size for ``AffinePropagation``.
        cache: What a propagation has derived from this key; goes away with it.
    """

    index: int
    frame: Frame
    stylised: Frame
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)


class Propagation(ABC):
    """Makes stylised frames between key frames from the original frames."""

    #: Whether a key after the frame is of use.
    bidirectional = False
    #: Whether ``KeyFrame.stylised`` must have the size of the frame.
    full_size = True

    @abstractmethod
    def propagate(
        self, frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None = None
    ) -> Frame:
        """Stylised form of one frame.

        Keys must be of the frame's own scene: nothing here looks for scene cuts.

        Args:
            frame: Original, uint8 (H, W, 3).
            index: Its number in the stream.
            past: Key at or before ``index``.
            future: Key after ``index``; None: causal. At least one of both must be there.

        Returns:
            uint8 (H, W, 3).

        Raises:
            ValueError: There is no key, or sizes or order do not fit.
        """


class Decision(NamedTuple):
    """Answer of a key-frame policy.

    Attributes:
        key: The frame should be stylised by the network.
        cut: A new scene starts here: no key before it may be used from here on. Such a frame, and
            the first of a stream, are always keys.
    """

    key: bool
    cut: bool


class KeyFramePolicy(ABC):
    """Chooses key frames, one frame after the other, from the original frames alone.

    Scene cuts are found in the base class, so no policy can miss them.
    """

    def __init__(self, scene_cut: Mapping[str, Any] | None = None) -> None:
        self.scene_cut = SceneCut(**(scene_cut or {}))
        self.gap = -1

    def decide(self, frame: Frame) -> Decision:
        """Decide on the next frame of the stream, uint8 (H, W, 3)."""
        cut = self.scene_cut.is_cut(frame)
        first = self.gap < 0
        self.gap += 1
        key = first or cut or self.wants_key(frame, self.gap)
        if key:
            self.gap = 0
            self.start(frame)
        return Decision(key=key, cut=cut)

    def reset(self) -> None:
        """Forget the stream; the next frame is a first one."""
        self.scene_cut.reset()
        self.gap = -1

    @abstractmethod
    def wants_key(self, frame: Frame, gap: int) -> bool:
        """Whether a frame ``gap`` frames after the last key should be the next one."""

    def start(self, frame: Frame) -> None:  # noqa: B027
        """Take note of a key frame; by default nothing."""

    def observe(self, round_trip: float, uploaded: int) -> None:  # noqa: B027
        """Take note of a key that came back; by default nothing.

        Args:
            round_trip: From sending to receipt, in seconds.
            uploaded: Bytes sent.
        """
