"""The arithmetic of TernGrad on plain tensors: clip, ternarize, pack.

Symbols as in the paper: gradient ``g``, its layer's standard deviation ``sigma``, scaler ``s``,
clipping factor ``c``. Packing and random numbers are ours.
"""

import math
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .kernels import ternarize_on_device
from .packing import (
    CODES_PER_BYTE,
    MAX_INT8_WORKERS,
    MAX_WORKERS,
    check_workers,
    level_bits,
    levels_bytes,
    pack_levels,
    pack_ternary,
    packed_bytes,
    sum_dtype,
    unpack_levels,
    unpack_ternary,
)
from .requantize import requantize

__all__ = [
    'CODES_PER_BYTE',
    'MAX_INT8_WORKERS',
    'MAX_WORKERS',
    'RESOLUTION',
    'check_clip_factor',
    'check_gradient',
    'check_workers',
    'clip_by_std',
    'clip_limits',
    'level_bits',
    'levels_bytes',
    'pack_levels',
    'pack_ternary',
    'packed_bytes',
    'requantize',
    'scalers',
    'sum_dtype',
    'ternarize',
    'unpack_levels',
    'unpack_ternary',
]

#: A code is drawn with this resolution, as a share of the scaler.
RESOLUTION = 2.0**-22

# Elements handled at once on a CPU: the temporaries stay in its caches.
_CHUNK = 1 << 17
_thread = threading.local()


def clip_limits(grads: Sequence[Tensor], clip_factor: float | None) -> Tensor:
    """Largest magnitude that clipping leaves, ``c * sigma``, for each layer.

    ``sigma`` is the population standard deviation about the mean (author's code). Fewer than two
    elements, or equal ones, are not clipped (ours).

    Args:
        grads: Gradients of n layers, any shapes, on one device.
        clip_factor: ``c`` > 0; None does not clip.

    Returns:
        Limits, float32 ``(n,)``, infinite where nothing is clipped.
    """
    device = grads[0].device if grads else None
    if clip_factor is None or not grads:
        return torch.full((len(grads),), math.inf, device=device)
    sigmas = _stack([_sigma(grad) for grad in grads], device)
    return torch.where(sigmas > 0, clip_factor * sigmas, math.inf).float()


def scalers(grads: Sequence[Tensor], limits: Tensor) -> Tensor:
    """Scaler ``s = max|clip(g)|`` of each layer.

    Args:
        grads: Gradients of n layers.
        limits: Their :func:`clip_limits`, ``(n,)``.

    Returns:
        float32 ``(n,)``. Infinite for a layer with a NaN or an infinity, also if clipping would
        hide it: gloo's MAX loses a NaN but carries an infinity.
    """
    if not grads:
        return limits
    device = grads[0].device
    # Where a limit is finite, the gradient is, and the limit is the most that can be found.
    enough = limits.tolist() if device.type == 'cpu' else [math.inf] * len(grads)
    largest = [_largest(grad, most) for grad, most in zip(grads, enough, strict=True)]
    largest = _stack(largest, device).float()
    found = torch.minimum(largest, limits)
    return torch.where(torch.isfinite(largest), found, math.inf)


def clip_by_std(grad: Tensor, c: float) -> Tensor:
    """Clip one layer's gradient: ``g if |g| <= c * sigma else sign(g) * c * sigma``.

    Args:
        grad: Gradient of any shape.
        c: Clipping factor > 0; the paper takes 2.5 for every network.

    Returns:
        Clipped gradient of the same shape and dtype.

    Raises:
        ValueError: ``c`` is not positive.
    """
    check_clip_factor(c)
    limit = clip_limits([grad], c)[0].to(grad.dtype)
    return torch.clamp(grad, -limit, limit)


def check_clip_factor(clip_factor: float | None) -> None:
    """Raise ValueError unless ``clip_factor`` is None or above 0."""
    if clip_factor is not None and not clip_factor > 0:
        raise ValueError(
            f'clip_factor={clip_factor} must be above 0 (the paper: 2.5), or None for no clipping'
        )


def ternarize(
    grad: Tensor,
    scale: float | Tensor,
    generator: torch.Generator,
    limit: float | Tensor = math.inf,
    out: Tensor | None = None,
) -> Tensor:
    """Draw ternary codes: ``sign(g)`` with probability ``|g| / s``, else 0.

    ``scale * codes`` is unbiased: its mean is ``g`` clipped to the scaler, within
    :data:`RESOLUTION` ``* s``. On a CPU the elements of one call share the last 7 of the 23 bits
    of their random numbers, which correlates any two of them by less than 2^-30.

    Args:
        grad: Real gradient of any shape; drawn in float32.
        scale: Scaler ``s`` >= 0. Zero and non-finite scalers give zeros.
        generator: On the device of ``grad``.
        limit: Clip to this magnitude first; a shared scaler may exceed it.
        out: Where the codes go, int8 ``(numel,)``; allocated by default.

    Returns:
        Codes -1, 0, 1, int8, with the shape of ``grad`` (flat if ``out`` is given).

    Raises:
        TypeError: ``grad`` is sparse or complex.
    """
    check_gradient(grad)
    flat = grad.detach().reshape(-1)
    codes = torch.empty(flat.numel(), dtype=torch.int8, device=flat.device) if out is None else out
    if flat.device.type == 'cpu':
        _ternarize_on_cpu(flat, float(scale), float(limit), generator, codes)
    else:
        ternarize_on_device(flat, scale, limit, generator, codes)
    return codes if out is not None else codes.view(grad.shape)


def check_gradient(grad: Tensor) -> None:
    """Raise TypeError unless ``grad`` is dense and real."""
    if grad.layout != torch.strided:
        raise TypeError(
            'TernGrad cannot ternarize a sparse gradient; set sparse=False in the embedding'
        )
    if grad.is_complex():
        raise TypeError(
            'TernGrad cannot ternarize a complex gradient, whose elements have no sign; name the '
            'parameter in keep_float'
        )


def _ternarize_on_cpu(
    flat: Tensor, scale: float, limit: float, generator: torch.Generator, out: Tensor
) -> None:
    inverse = 1 / scale if scale > 0 and math.isfinite(scale) else 0.0
    if not 0 < inverse < torch.finfo(torch.float32).max:
        out.zero_()
        return
    # 16 bits for each element, and 7 finer ones that all of them share: uniform to 23 bits.
    stream = _fast_stream(generator)
    centre = 1.5 + int(stream.random_raw() >> 57) * 2.0**-23
    bound = min(limit * inverse, 1.0)
    centre_tensor = torch.tensor(centre)
    size = min(flat.numel(), _CHUNK)
    noise, values = torch.empty(size), torch.empty(size)
    for source, codes in zip(flat.split(_CHUNK), out.split(_CHUNK), strict=True):
        count = source.numel()
        noise, values = noise[:count], values[:count]
        words = stream.random_raw(-(-count // 4))
        noise.copy_(torch.from_numpy(words.view(np.int16))[:count])
        # floor(g / s + u) + 1 with u in [0, 1), as a truncation of a positive number.
        torch.add(centre_tensor, source.float(), alpha=inverse, out=values)
        values.clamp_(centre - bound, centre + bound).add_(noise, alpha=2.0**-16)
        codes.copy_(values)
    # 3.0 occurs where 2.99999 was rounded up.
    out.sub_(1).clamp_(max=1)


def _fast_stream(generator: torch.Generator) -> np.random.SFC64:
    """NumPy's SFC64, seeded by torch's mt19937, which alone is slower than the whole encoding."""
    if not hasattr(_thread, 'stream'):
        # Making one takes longer than encoding a small layer.
        _thread.stream = np.random.SFC64(0)
        _thread.state = _thread.stream.state
    seed = torch.empty(3, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    _thread.state['state']['state'][:3] = seed.numpy().view(np.uint64)
    _thread.state['state']['state'][3] = 1
    _thread.stream.state = _thread.state
    # As its own seeding does, until the counter has mixed into all words.
    _thread.stream.random_raw(12)
    return _thread.stream


def _stack(values: list, device: torch.device | None) -> Tensor:
    """Numbers (CPU) or 0-dim tensors as one float64 vector."""
    if device is None or device.type == 'cpu':
        return torch.tensor(values, dtype=torch.float64)
    return torch.stack(values).double()


def _largest(grad: Tensor, enough: float) -> float | Tensor:
    """Largest magnitude; on a CPU any that is at least ``enough`` will do."""
    flat = grad.detach().reshape(-1)
    if flat.device.type != 'cpu':
        return torch.linalg.vector_norm(flat, math.inf) if flat.numel() else flat.sum()
    found = 0.0
    for part in flat.split(_CHUNK):
        low, high = torch.aminmax(part) if part.numel() else (torch.zeros(()), torch.zeros(()))
        # aminmax gives NaN for both where there is one, and a NaN must not be lost.
        value = max(-float(low), float(high))
        if not value < enough:
            return value
        found = max(found, value)
    return found


def _sigma(grad: Tensor) -> float | Tensor:
    """Population standard deviation; 0 for fewer than two elements."""
    flat = grad.detach().reshape(-1)
    count = flat.numel()
    if flat.device.type != 'cpu':
        mean = flat.sum(dtype=torch.float64) / max(count, 1)
        square = torch.linalg.vector_norm(flat, dtype=torch.float64).square() / max(count, 1)
        return (square - mean.square()).clamp_min(0).sqrt() * (count > 1)
    if count < 2:
        return 0.0
    flat = flat.float()
    # Not dot: BLAS rounds by the place in memory, and buckets of DDP differ after a resume.
    mean, square = float(flat.sum()) / count, float(torch.linalg.vector_norm(flat)) ** 2 / count
    variance = square - mean * mean
    # The fast sums are float32: not enough where the mean or the exponent drowns the variance.
    if variance > 1e-3 * square and 1e-30 < square < 1e30:
        return math.sqrt(variance)
    return float(flat.double().std(correction=0))
