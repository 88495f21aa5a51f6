"""Local affine colour transforms: fitted on a coarse grid, applied at full resolution.

The model of guided filters (He et al., 2010) between a frame and its stylised form: in each
neighbourhood ``S = A I + b`` with a 3x3 matrix and an offset. A grid holds them as float32
(12, gh, gw), channel ``4 c + k`` being the weight of input k (3: the offset) for output c.
"""

import cv2
import numpy as np

from .functional import color_statistics
from .interfaces import Frame

#: Rows that are transformed together; the planes of a strip stay in the cache.
STRIP = 16


def fit(
    guide: Frame, target: Frame, grid: tuple[int, int], radius: int = 1, ridge: float = 1e-3
) -> np.ndarray:
    """Least-squares affine colour transform from ``guide`` to ``target`` around each grid cell.

    Where colours do not vary, the fit follows the transform of the whole frame instead of
    flattening the texture (ours; a guided filter would return the mean).

    Args:
        guide: Original, uint8 (h, w, 3).
        target: Stylised, uint8 of the same size.
        grid: (gh, gw), at most (h, w).
        radius: Cells around a cell that belong to its window, >= 0.
        ridge: Variance of colours in [0, 1] below which the transform of the whole frame rules.

    Returns:
        (12, gh, gw) on colours in [0, 1].

    Raises:
        ValueError: The sizes differ.

    Cost: 24 averages per pixel and a 3x3 system per cell.
    """
    if guide.shape != target.shape:
        raise ValueError(f'guide is {guide.shape}, target {target.shape}: the sizes must be equal')
    whole = fit_global(guide, target, ridge)
    source = guide.astype(np.float32) / 255
    residual = target.astype(np.float32) / 255 - cv2.transform(source, whole)
    cells = (grid[1], grid[0])
    window = (2 * radius + 1, 2 * radius + 1)

    def average(planes: np.ndarray) -> np.ndarray:
        small = cv2.resize(planes, cells, interpolation=cv2.INTER_AREA)
        return cv2.blur(small, window, borderType=cv2.BORDER_REPLICATE) if radius else small

    mean_i, mean_r = average(source), average(residual)
    products = [average(source * source[..., k : k + 1]) for k in range(3)]
    cross = [average(residual * source[..., k : k + 1]) for k in range(3)]
    covariance = np.stack(products, 2) - mean_i[..., :, None] * mean_i[..., None, :]
    mixed = np.stack(cross, 2) - mean_i[..., :, None] * mean_r[..., None, :]
    covariance = covariance + ridge * np.eye(3, dtype=np.float32)
    slopes = np.linalg.solve(covariance, mixed)
    offset = mean_r - np.einsum('yxk,yxkc->yxc', mean_i, slopes)
    local = np.concatenate([slopes.swapaxes(2, 3), offset[..., None]], 3) + whole
    return np.ascontiguousarray(local.reshape(*grid, 12).transpose(2, 0, 1), np.float32)


def fit_global(guide: Frame, target: Frame, ridge: float = 1e-3) -> np.ndarray:
    """Affine colour transform (3, 4) of a whole frame, on colours in [0, 1].

    A frame of one colour is shifted.
    """
    source = guide.reshape(-1, 3) / 255.0
    wanted = target.reshape(-1, 3) / 255.0
    mean_i, covariance = color_statistics(source)
    mean_s = wanted.mean(0)
    mixed = (source - mean_i).T @ (wanted - mean_s) / len(source)
    # The small ridge pulls towards the identity.
    eye = 0.1 * ridge * np.eye(3)
    slopes = np.linalg.solve(covariance + eye, mixed + eye).T
    return np.concatenate([slopes, (mean_s - slopes @ mean_i)[:, None]], 1)


def constant(transform: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Grid (12, gh, gw) that has one transform (3, 4) everywhere."""
    planes = np.asarray(transform, np.float32).reshape(12, 1, 1)
    return np.broadcast_to(planes, (12, *grid)).copy()


def apply(
    frame: Frame, grid: np.ndarray, rows: slice | None = None, out: np.ndarray | None = None
) -> Frame:
    """Transform each pixel by the bilinear interpolation of the grid at its place.

    Args:
        frame: uint8 (H, W, 3).
        grid: (12, gh, gw).
        rows: Only these; default all.
        out: uint8 (rows, W, 3) to write to.

    Returns:
        uint8 (rows, W, 3).

    Cost: 12 interpolations and 9 multiply-adds per pixel, some 40 ms at 1920x1080 on one core.
    """
    height, width = frame.shape[:2]
    first, last, _ = (rows or slice(None)).indices(height)
    result = np.empty((last - first, width, 3), np.uint8) if out is None else out
    _, tall, wide = grid.shape
    # Vertical interpolation of the few cells is cheap; the horizontal one is the work.
    places = (np.arange(first, last) + 0.5) * (tall / height) - 0.5
    places = np.clip(places, 0, tall - 1)
    above = np.minimum(places.astype(np.int64), max(tall - 2, 0))
    below = np.minimum(above + 1, tall - 1)
    part = (places - above).astype(np.float32)[:, None]
    scaled = grid.copy()
    scaled[3::4] *= 255
    for start in range(0, last - first, STRIP):
        end = min(start + STRIP, last - first)
        local = slice(start, end)
        upper, lower = scaled[:, above[local]], scaled[:, below[local]]
        lines = upper + part[local] * (lower - upper)
        count = end - start
        planes = cv2.resize(
            lines.reshape(12 * count, wide), (width, 12 * count), interpolation=cv2.INTER_LINEAR
        ).reshape(12, count, width)
        pixels = frame[first + start : first + end].astype(np.float32)
        channels = cv2.split(pixels)
        for c in range(3):
            total = planes[4 * c + 3]
            for k in range(3):
                cv2.accumulateProduct(planes[4 * c + k], channels[k], total)
        merged = cv2.merge([planes[3], planes[7], planes[11]])
        # Rounds and saturates.
        result[local] = cv2.add(merged, 0, dtype=cv2.CV_8U)
    return result
