"""Upscaling without a network: what MetaSmoothing must beat."""

import cv2
import numpy as np

from . import local_affine
from .flow import resize
from .interfaces import Frame, Upscaler, check_frame, check_size


class Bicubic(Upscaler):
    """Bicubic interpolation.

    Example:
        >>> upscaler = UPSCALERS.build(dict(type='mmext.Bicubic'))

    Cost: 16 multiply-adds per value.
    """

    def upscale(self, frame: Frame, size: tuple[int, int], guide: Frame | None = None) -> Frame:
        """Frame at ``size``, see :class:`.Upscaler`."""
        return resize(check_frame(frame), check_size(size))


class GuidedFilter(Upscaler):
    """Bicubic interpolation, then a guided filter along the original (He et al., 2010).

    Args:
        radius: Of the window, in pixels of the result, >= 1.
        ridge: Variance of the guide in [0, 1] below which it counts as flat, > 0.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> upscaler = UPSCALERS.build(dict(type='mmext.GuidedFilter'))

    Cost: 15 box filters at the size of the result.
    """

    def __init__(self, radius: int = 8, ridge: float = 1e-3) -> None:
        if radius < 1 or not ridge > 0:
            raise ValueError(f'radius={radius} must be at least 1 and ridge={ridge} above 0')
        self.radius = radius
        self.ridge = ridge

    def upscale(self, frame: Frame, size: tuple[int, int], guide: Frame | None = None) -> Frame:
        """Frame at ``size``, see :class:`.Upscaler`.

        Raises:
            ValueError: There is no guide, or it has another size.
        """
        guide = _guide(guide, size)
        target = resize(check_frame(frame), check_size(size)).astype(np.float32) / 255
        grey = cv2.cvtColor(guide, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255
        window = (2 * self.radius + 1,) * 2

        def mean(values: np.ndarray) -> np.ndarray:
            return cv2.blur(values, window).reshape(*values.shape[:2], -1)

        mean_i, mean_s = mean(grey), mean(target)
        slope = mean(grey * target) - mean_i * mean_s
        slope /= mean(grey * grey) - mean_i**2 + self.ridge
        offset = mean_s - slope * mean_i
        filtered = mean(slope) * grey + mean(offset)
        return np.clip(np.rint(255 * filtered), 0, 255).astype(np.uint8)


class GuidedAffine(Upscaler):
    """Fit local affine colour transforms at the small size, apply them to the original.

    Bilateral guided upsampling in its plain form (Chen et al., 2016): no network; all detail is the
    original's.

    Args:
        cell: Pixels of the small frame per grid cell, >= 1.
        radius: Cells around a cell that its window includes, >= 0.
        ridge: Variance of colours in [0, 1] below which the frame's transform rules, > 0.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> upscaler = UPSCALERS.build(dict(type='mmext.GuidedAffine'))

    Cost: see :func:`.local_affine.fit` at the small size and :func:`.local_affine.apply`.
    """

    def __init__(self, cell: int = 2, radius: int = 1, ridge: float = 1e-3) -> None:
        if cell < 1 or radius < 0 or not ridge > 0:
            raise ValueError(
                f'cell={cell} must be at least 1, radius={radius} at least 0, ridge={ridge} above 0'
            )
        self.cell = cell
        self.radius = radius
        self.ridge = ridge

    def upscale(self, frame: Frame, size: tuple[int, int], guide: Frame | None = None) -> Frame:
        """Frame at ``size``, see :class:`.Upscaler`.

        Raises:
            ValueError: There is no guide, or it has another size.
        """
        guide = _guide(guide, size)
        height, width = check_frame(frame).shape[:2]
        grid = max(1, height // self.cell), max(1, width // self.cell)
        small = resize(guide, (height, width))
        return local_affine.apply(
            guide, local_affine.fit(small, frame, grid, self.radius, self.ridge)
        )


def _guide(guide: Frame | None, size: tuple[int, int]) -> Frame:
    if guide is None:
        raise ValueError('this upscaler needs guide, the original frame at the size wanted')
    if check_frame(guide, 'guide').shape[:2] != check_size(size):
        raise ValueError(f'guide has size {guide.shape[:2]}, wanted is {tuple(size)}')
    return guide
