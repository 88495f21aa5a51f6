"""MVStylizer's mathematics (arXiv 2005.11630) on plain arrays and tensors.

The paper's abstract fixes key frames, interpolation by optical flow, and a module that upscales to
any resolution and removes distortions in one go. All formulas here are ours or of the works named
at each.
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

#: Phases of the Meta-Upscale kernels per axis; beyond, offsets are rounded to this grid.
MAX_PHASES = 16


def color_statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of colours.

    Args:
        pixels: (..., 3), any number type.

    Returns:
        Mean (3,) and covariance (3, 3), divided by the number of pixels; float64.
    """
    flat = np.asarray(pixels, np.float64).reshape(-1, 3)
    mean = flat.mean(0)
    centred = flat - mean
    return mean, centred.T @ centred / len(flat)


def mkl_transform(
    content: tuple[np.ndarray, np.ndarray],
    style: tuple[np.ndarray, np.ndarray],
    floor: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray]:
    """Linear Monge-Kantorovich map between two colour Gaussians (Pitie and Kokaram, 2007).

    The map of least mean squared displacement that gives the content the style's mean and
    covariance: ``A = Cc^-1/2 (Cc^1/2 Cs Cc^1/2)^1/2 Cc^-1/2``.

    Args:
        content: Mean (3,) and covariance (3, 3).
        style: Likewise.
        floor: Added to the diagonal of both covariances, in squared units of the colours, so that
            a flat image stays finite.

    Returns:
        Matrix A (3, 3), symmetric, and offset b (3,): ``y = A x + b``.
    """
    eye = floor * np.eye(3)
    root, inverse = _roots(content[1] + eye)
    middle, _ = _roots(root @ (style[1] + eye) @ root)
    matrix = inverse @ middle @ inverse
    return matrix, style[0] - matrix @ content[0]


def _roots(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square root of a symmetric positive matrix and its inverse."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(np.maximum(values, 1e-12))
    return vectors * roots @ vectors.T, vectors / roots @ vectors.T


def haar_split(features: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal Haar transform of one level.

    Args:
        features: (N, C, H, W), H and W even.

    Returns:
        Low band (N, C, H/2, W/2) and the three high bands (N, 3C, H/2, W/2).
    """
    a, b = features[..., ::2, ::2], features[..., ::2, 1::2]
    c, d = features[..., 1::2, ::2], features[..., 1::2, 1::2]
    top, bottom, top_edge, bottom_edge = a + b, c + d, a - b, c - d
    high = (top - bottom, top_edge + bottom_edge, top_edge - bottom_edge)
    return (top + bottom) / 2, torch.cat(high, 1) / 2


def haar_join(low: Tensor, high: Tensor) -> Tensor:
    """Inverse of :func:`haar_split`."""
    rows, columns, diagonal = high.chunk(3, 1)
    parts = (
        low + rows + columns + diagonal,
        low + rows - columns - diagonal,
        low - rows + columns - diagonal,
        low - rows - columns + diagonal,
    )
    count, channels, height, width = low.shape
    # (N, C, h, w, 2, 2): each pixel becomes a block of two by two.
    blocks = torch.stack(parts, -1).unflatten(-1, (2, 2)) / 2
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(count, channels, 2 * height, 2 * width)


def feature_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N, C) and covariance (N, C, C) of features (N, C, H, W)."""
    flat = features.flatten(2)
    mean = flat.mean(2)
    # Centred first: E[x x'] - m m' would lose small variances in float32.
    centred = flat - mean.unsqueeze(2)
    return mean, centred @ centred.transpose(1, 2) / flat.shape[2]


def cholesky_map(
    content: tuple[Tensor, Tensor], style: tuple[Tensor, Tensor], shrinkage: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Affine map that gives features the style's mean and covariance (WCT by Cholesky factors).

    ``M = Ls Lc^-1`` with the Cholesky factors of the covariances: no eigenvalue decomposition,
    which flips from frame to frame (CAP-VSTNet, arXiv 2303.17867).

    Args:
        content: Mean (N, C) and covariance (N, C, C).
        style: Likewise, N or 1 of them.
        shrinkage: Share of the mean variance that is added to the diagonals; bounds the gain.

    Returns:
        Matrix (N, C, C) and offset (N, C): ``y = M x + t``.
    """
    factors = []
    for _, covariance in (content, style):
        exact = covariance.double()
        variance = exact.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-8)
        eye = torch.eye(exact.shape[1], dtype=exact.dtype, device=exact.device)
        factors.append(torch.linalg.cholesky(exact + (shrinkage * variance)[:, None, None] * eye))
    lower_c, lower_s = factors
    lower_s = lower_s.expand_as(lower_c)
    # Ls Lc^-1 from the triangular system  X Lc = Ls.
    matrix = torch.linalg.solve_triangular(lower_c, lower_s, upper=False, left=False)
    matrix = matrix.to(content[0].dtype)
    return matrix, style[0] - (matrix @ content[0].unsqueeze(2)).squeeze(2)


def apply_map(features: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """``M x + t`` at every place: features (N, C, H, W), matrix (N, C, C), offset (N, C)."""
    moved = torch.baddbmm(offset.unsqueeze(2), matrix, features.flatten(2))
    return moved.view_as(features)


def phases(source: int, target: int, limit: int = MAX_PHASES) -> tuple[Tensor, Tensor, Tensor]:
    """Where output pixels of one axis lie on the input's grid, for Meta-Upscale.

    Output pixel i has the input coordinate ``(i + 0.5) source / target - 0.5``. Meta-SR (arXiv
    1903.00875) predicts a kernel for each output pixel from the fractional part; there are only
    ``target / gcd`` different ones, which is what makes the head affordable.

    Args:
        source: Input pixels, >= 1.
        target: Output pixels, >= 1.
        limit: Most different offsets; where there are more, they are rounded to 1 / limit.

    Returns:
        Input pixel (target,), int64 in [-1, source - 1]; number of the phase (target,), int64;
        offset of each phase (phases,), float32 in [0, 1].
    """
    period = target // math.gcd(source, target)
    numbers = torch.arange(target, dtype=torch.float64)
    places = (numbers + 0.5) * (source / target) - 0.5
    base = torch.floor(places + 1e-9)
    if period <= limit:
        phase = torch.arange(target) % period
        offsets = (places - base)[:period].clamp_min(0)
        return base.long(), phase, offsets.float()
    phase = ((places - base) * limit).floor().clamp(0, limit - 1).long()
    offsets = (torch.arange(limit, dtype=torch.float32) + 0.5) / limit
    return base.long(), phase, offsets


def meta_upscale(
    features: Tensor,
    kernels: Tensor,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
) -> Tensor:
    """Apply to each output pixel the 3x3 kernel of its phase (Meta-Upscale, arXiv 1903.00875).

    Args:
        features: (N, C, h, w).
        kernels: (row phases, column phases, outputs, C, 3, 3).
        rows: Input row and phase of each output row, of :func:`phases`.
        columns: Likewise.

    Returns:
        (N, outputs, H, W).

    Cost: H W C 9 outputs multiplications; memory for the kernels, the result and, where a scale is
    no integer, one row phase of the gathered features.
    """
    height, width = len(rows[0]), len(columns[0])
    scale_y, scale_x = (height / features.shape[2], width / features.shape[3])
    whole = (scale_y, scale_x) == (len(kernels), len(kernels[0]))
    if whole and scale_y % 1 == 0 and scale_x % 1 == 0:
        return _whole_scale(features, kernels, rows[0], columns[0])
    # One border pixel for input pixel -1, one more for the kernel.
    padded = F.pad(features, (2, 2, 2, 2), mode='replicate')
    result = features.new_empty(len(features), kernels.shape[2], height, width)
    common = math.gcd(features.shape[2], height), math.gcd(features.shape[3], width)
    steps = features.shape[2] // common[0], features.shape[3] // common[1]
    if (len(kernels), len(kernels[0])) == (height // common[0], width // common[1]):
        # Places of one phase are evenly spaced: a convolution with that stride.
        for i, j in itertools.product(range(len(kernels)), range(len(kernels[0]))):
            window = padded[
                :,
                :,
                int(rows[0][i]) + 1 : int(rows[0][i]) + 4 + steps[0] * (common[0] - 1),
                int(columns[0][j]) + 1 : int(columns[0][j]) + 4 + steps[1] * (common[1] - 1),
            ]
            result[:, :, i :: len(kernels), j :: len(kernels[0])] = F.conv2d(
                window, kernels[i, j], stride=steps
            )
        return result
    taps = torch.arange(3)
    for i in range(len(kernels)):
        place = (rows[1] == i).nonzero().squeeze(1)
        # (N, C, rows, 3, w + 4)
        strip = padded[:, :, (rows[0][place, None] + 1 + taps).to(features.device)]
        for j in range(len(kernels[i])):
            across = (columns[1] == j).nonzero().squeeze(1)
            if not len(place) or not len(across):
                continue
            window = strip[..., (columns[0][across, None] + 1 + taps).to(features.device)]
            found = torch.einsum('ncyaxb,ocab->noyx', window, kernels[i, j])
            result[:, :, place[:, None], across] = found
    return result


def _whole_scale(features: Tensor, kernels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Integer scales: one convolution, whose channels are the pixels of a block."""
    tall, wide, outputs = kernels.shape[:3]
    padded = F.pad(features, (2, 2, 2, 2), mode='replicate')
    weights = kernels.flatten(0, 2)
    # Input pixel -1 first: entry k of the convolution belongs to input pixel k - 1.
    found = F.conv2d(padded, weights).unflatten(1, (tall, wide, outputs))
    count, _, _, _, height, width = found.shape
    result = features.new_empty(count, outputs, len(rows), len(columns))
    for i in range(tall):
        y = rows[i].item() + 1
        for j in range(wide):
            x = columns[j].item() + 1
            result[:, :, i::tall, j::wide] = found[
                :, i, j, :, y : y + height - 2, x : x + width - 2
            ]
    return result
