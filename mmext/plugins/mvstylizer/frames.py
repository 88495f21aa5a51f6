"""What a frame of a video is."""

from typing import Any, TypeAlias

import numpy as np

#: uint8 (H, W, 3), RGB.
Frame: TypeAlias = np.ndarray


def check_frame(frame: Any, name: str = 'frame') -> Frame:
    """Return ``frame``, which must be uint8 (H, W, 3) and not empty.

    Raises:
        TypeError: It is no uint8 array.
        ValueError: Wrong shape or no pixels.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        found = getattr(frame, 'dtype', type(frame).__name__)
        raise TypeError(f'{name} must be a uint8 array in RGB, got {found}')
    if frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f'{name} must have the shape (height, width, 3), got {frame.shape}')
    return frame


def check_size(size: Any, name: str = 'size') -> tuple[int, int]:
    """Return ``size`` as (height, width) in pixels, both >= 1.

    Raises:
        ValueError: It is anything else.
    """
    try:
        height, width = (int(value) for value in size)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{name}={size!r} must be (height, width) in pixels') from error
    if height < 1 or width < 1:
        raise ValueError(f'{name}={size!r} must be at least 1 x 1 pixels')
    return height, width
