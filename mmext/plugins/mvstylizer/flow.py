"""Optical flow, backward warping and what of it can be trusted.

A flow (h, w, 2) from a to b tells for each pixel (x, y) of a its place (x + u, y + v) in b, so
``warp(b, flow)`` lies on a and has no holes.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from .frames import Frame

PRESETS = {
    'ultrafast': cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    'fast': cv2.DISOPTICAL_FLOW_PRESET_FAST,
    'medium': cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
#: Smallest side that DIS takes with its patches of 8 pixels over its coarsest scale.
SMALLEST = 16


class DISFlow:
    """Dense inverse search flow (arXiv 1603.03590) of OpenCV on grey images.

    Args:
        preset: 'ultrafast', 'fast' or 'medium'.

    Raises:
        ValueError: Unknown preset.
    """

    def __init__(self, preset: str = 'medium') -> None:
        if preset not in PRESETS:
            raise ValueError(f'preset={preset!r} must be one of {", ".join(PRESETS)}')
        self.preset = preset
        self._dis = cv2.DISOpticalFlow.create(PRESETS[preset])

    def __call__(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Flow from ``source`` to ``target``, both uint8 (h, w); float32 (h, w, 2) in pixels."""
        return self._dis.calc(source, target, None)


def working_size(shape: Sequence[int], side: int) -> tuple[int, int]:
    """(height, width) of a shape made at most ``side`` long, no side below :data:`SMALLEST`."""
    height, width = shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Image at (height, width): averaged where it shrinks, bicubic where it grows."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


def grey(frame: Frame, side: int) -> np.ndarray:
    """Grey image uint8 (h, w) of a frame at :func:`working_size`."""
    small = resize(frame, working_size(frame.shape, side))
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def resize_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow on a grid of (height, width), its vectors scaled along."""
    height, width = flow.shape[:2]
    if (height, width) == tuple(size):
        return flow
    scaled = cv2.resize(flow, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return scaled * np.array([size[1] / width, size[0] / height], np.float32)


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    grid = np.stack([x, y], 2)
    grid.setflags(write=False)
    return grid


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Backward warp, bilinear, the border repeated; exact where the flow is an integer.

    OpenCV rounds places to 1/32 pixel.

    Args:
        image: (h, w) or (h, w, C) with C <= 4.
        flow: (h, w, 2).

    Raises:
        ValueError: The sizes differ.
    """
    if image.shape[:2] != flow.shape[:2]:
        raise ValueError(f'the flow has size {flow.shape[:2]}, the image {image.shape[:2]}')
    places = _grid(*flow.shape[:2]) + flow
    return cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def inside(flow: np.ndarray) -> np.ndarray:
    """Whether each vector ends inside the image, bool (h, w)."""
    height, width = flow.shape[:2]
    places = _grid(height, width) + flow
    x, y = places[..., 0], places[..., 1]
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def forward_backward_error(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """``|f + b~|^2`` over its tolerance ``0.01 (|f|^2 + |b~|^2) + 0.5`` (Sundaram et al., 2010).

    Args:
        forward: From a to b, (h, w, 2).
        backward: From b to a.

    Returns:
        float32 (h, w); above 1 a pixel of a counts as occluded in b.
    """
    there = warp(backward, forward)
    both = forward + there
    tolerance = 0.01 * ((forward**2).sum(2) + (there**2).sum(2)) + 0.5
    return (both**2).sum(2) / tolerance


def occluded(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Pixels of a that have no counterpart in b, or lie on a motion boundary; bool (h, w).

    The rule of Ruder et al. (arXiv 1604.08610).
    """
    vertical, horizontal = np.gradient(forward, axis=(0, 1))
    slope = (vertical**2).sum(2) + (horizontal**2).sum(2)
    boundary = slope > 0.01 * (forward**2).sum(2) + 0.002
    return (forward_backward_error(forward, backward) > 1) | boundary | ~inside(forward)


def confidence(
    source: np.ndarray,
    target: np.ndarray,
    forward: np.ndarray,
    backward: np.ndarray | None = None,
    scale: float = 12.0,
) -> np.ndarray:
    """How far a warp can be trusted (ours).

    Args:
        source: Grey uint8 (h, w), that the warped target should equal.
        target: Grey uint8 (h, w).
        forward: Flow from source to target.
        backward: Flow from target to source; None: judged by colour alone.
        scale: Grey levels of difference at which the confidence falls to 1/e.

    Returns:
        float32 (h, w) in [0, 1].
    """
    difference = cv2.absdiff(source, warp(target, forward)).astype(np.float32)
    exponent = cv2.blur(difference, (3, 3)) / scale
    if backward is not None:
        exponent += forward_backward_error(forward, backward)
    return np.where(inside(forward), np.exp(-exponent), 0).astype(np.float32)
