"""Closed-form colour transfer."""

from typing import Any

import cv2
import numpy as np

from .functional import color_statistics, mkl_transform
from .interfaces import Frame, StyleCode, Stylizer, check_frame


class MKLColorTransfer(Stylizer):
    """Give a frame the mean and covariance of the style's colours (Pitie and Kokaram, 2007).

    Nothing is learned: the oracle of the other stylizers and the quickest of them.

    Args:
        strength: Share of the way to the style, in [0, 1].
        momentum: Share that the statistics of earlier key frames of a scene keep, in [0, 1).

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> stylizer = STYLIZERS.build(dict(type='mmext.MKLColorTransfer'))
        >>> code = stylizer.encode_style(style)
        >>> stylised = stylizer.stylize(frame, code)

    Cost: one pass over a thumbnail and one 3x3 matrix per pixel.
    """

    resolution_free = True

    def __init__(self, strength: float = 1.0, momentum: float = 0.5) -> None:
        if not 0 <= strength <= 1 or not 0 <= momentum < 1:
            raise ValueError(
                f'strength={strength} must be in [0, 1] and momentum={momentum} in [0, 1)'
            )
        self.strength = strength
        self.momentum = momentum

    def encode_style(self, style: Frame) -> StyleCode:
        """Mean (3,) and covariance (3, 3) of the style's colours in [0, 1]."""
        mean, covariance = color_statistics(check_frame(style, 'style') / 255.0)
        return {'mean': mean.astype(np.float32), 'covariance': covariance.astype(np.float32)}

    def stylize(self, frame: Frame, code: StyleCode, memory: dict[str, Any] | None = None) -> Frame:
        """Stylise a frame, see :class:`.Stylizer`."""
        # Statistics of every n-th pixel; a thumbnail made by averaging would narrow them.
        step = max(1, min(check_frame(frame).shape[:2]) // 256)
        content = color_statistics(frame[::step, ::step] / 255.0)
        if memory is not None:
            content = running(memory, content, self.momentum)
        style = code['mean'].astype(np.float64), code['covariance'].astype(np.float64)
        matrix, offset = mkl_transform(content, style)
        matrix = self.strength * matrix + (1 - self.strength) * np.eye(3)
        affine = np.concatenate([matrix, self.strength * 255 * offset[:, None]], 1)
        # On uint8, cv2.transform rounds the matrix; float32 keeps it.
        moved = cv2.transform(frame.astype(np.float32), affine)
        return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def running(memory: dict[str, Any], statistics: tuple, momentum: float, name: str = '') -> tuple:
    """Mix statistics with those that ``memory`` holds, and keep the mixture there."""
    key = f'statistics{name}'
    old = memory.get(key)
    if old is not None:
        pairs = zip(old, statistics, strict=True)
        statistics = tuple(momentum * was + (1 - momentum) * new for was, new in pairs)
    memory[key] = statistics
    return statistics
