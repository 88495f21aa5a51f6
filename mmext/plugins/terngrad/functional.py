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

#: Ternary codes in one byte, by packing.
CODES_PER_BYTE = {'base3': 5, '2bit': 4}
#: Most workers whose sum of codes fits into an int8; from here on it is an int16.
MAX_INT8_WORKERS = 127
#: Most workers whose sum of codes fits into an int16 and 15 bits.
MAX_WORKERS = 16383
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
        from .kernels import ternarize_on_device

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


def pack_ternary(codes: Tensor, bits: str = 'base3') -> Tensor:
    """Pack ternary codes, planar: byte j holds the codes j, j + m, j + 2m ... of m bytes.

    Args:
        codes: -1, 0, 1 as int8, ``(n,)``.
        bits: 'base3', five codes in a byte (1.6 bits each), or '2bit', four.

    Returns:
        uint8 ``(ceil(n / 5),)`` or ``(ceil(n / 4),)``.

    Raises:
        ValueError: Unknown ``bits``.
    """
    per_byte, radix = _format(bits)
    size = -(-codes.numel() // per_byte)
    # Every digit is the code + 1, and bytes wrap around, so one sum adds all the ones.
    ones = sum(radix**digit for digit in range(per_byte))
    packed = torch.full((size,), ones, dtype=torch.uint8, device=codes.device)
    planes = codes.reshape(-1).view(torch.uint8)
    for digit in range(per_byte):
        plane = planes[digit * size : (digit + 1) * size]
        packed[: plane.numel()].add_(plane, alpha=radix**digit)
    return packed


def unpack_ternary(packed: Tensor, numel: int, bits: str = 'base3') -> Tensor:
    """Undo :func:`pack_ternary`.

    Args:
        packed: uint8 ``(m,)``.
        numel: Number of codes, <= ``m * codes per byte``.
        bits: As for packing.

    Returns:
        Codes -1, 0, 1, int8 ``(numel,)``.

    Raises:
        ValueError: Unknown ``bits``, or ``packed`` has not the size that ``numel`` codes take.
    """
    per_byte, radix = _format(bits)
    size = packed.numel()
    if size != -(-numel // per_byte):
        raise ValueError(f'{numel} codes take {-(-numel // per_byte)} bytes in {bits}, got {size}')
    codes = torch.empty(numel, dtype=torch.int8, device=packed.device)
    digits = codes.view(torch.uint8)
    rest = packed.clone()
    above = torch.empty_like(rest)
    for digit in reversed(range(per_byte)):
        plane = digits[digit * size : (digit + 1) * size]
        count = plane.numel()
        # Byte-wise comparisons in place are many times faster than a division or a table.
        weight = radix**digit
        above.copy_(rest).ge_(2 * weight)
        plane.copy_(rest[:count]).ge_(weight).add_(above[:count])
        if digit:
            # Padding is the digit 1 (code 0), which is not written anywhere.
            rest[:count].sub_(plane, alpha=weight)
            rest[count:].sub_(weight)
    return codes.sub_(1)


def level_bits(n_ranks: int) -> int:
    """Bits of one of the ``2N + 1`` levels of a sum of N ternary codes."""
    return (2 * n_ranks).bit_length()


def pack_levels(sums: Tensor, n_ranks: int) -> Tensor:
    """Pack sums of N ternary codes with ``ceil(log2(2N + 1))`` bits each.

    The bits of a level are cut into fields of 4, 2 or 1 bits, and each field is packed planar, so
    that 3 bits need no shifting across bytes.

    Args:
        sums: In -N..N, ``(n,)`` of :func:`sum_dtype`.
        n_ranks: N, 1..16383.

    Returns:
        uint8, ``sum(ceil(n * field / 8))`` bytes over the fields.

    Raises:
        ValueError: N is out of range.
    """
    check_workers(n_ranks)
    levels = sums.reshape(-1) + n_ranks
    levels = levels.view(torch.uint8) if levels.dtype == torch.int8 else levels
    parts = []
    for shift, width in _fields(n_ranks):
        field = torch.bitwise_right_shift(levels, shift).bitwise_and_(2**width - 1)
        field = field.to(torch.uint8)
        size = -(-field.numel() // (8 // width))
        packed = torch.zeros(size, dtype=torch.uint8, device=sums.device)
        for place in range(8 // width):
            plane = field[place * size : (place + 1) * size]
            packed[: plane.numel()].add_(plane, alpha=2 ** (place * width))
        parts.append(packed)
    return torch.cat(parts)


def unpack_levels(packed: Tensor, numel: int, n_ranks: int) -> Tensor:
    """Undo :func:`pack_levels`; returns sums in -N..N, ``(numel,)`` of :func:`sum_dtype`.

    Raises:
        ValueError: N is out of range, or ``packed`` has not the size that ``numel`` levels take.
    """
    check_workers(n_ranks)
    if packed.numel() != levels_bytes(numel, n_ranks):
        raise ValueError(
            f'{numel} levels of {n_ranks} ranks take {levels_bytes(numel, n_ranks)} bytes, '
            f'got {packed.numel()}'
        )
    dtype = sum_dtype(n_ranks)
    small = dtype == torch.int8
    levels = torch.zeros(numel, dtype=torch.uint8 if small else dtype, device=packed.device)
    begin = 0
    for shift, width in _fields(n_ranks):
        size = -(-numel // (8 // width))
        part = packed[begin : begin + size]
        begin += size
        for place in range(8 // width):
            plane = levels[place * size : (place + 1) * size]
            field = torch.bitwise_right_shift(part[: plane.numel()], place * width)
            plane.add_(field.bitwise_and_(2**width - 1).to(levels.dtype), alpha=2**shift)
    return levels.view(dtype).sub_(n_ranks)


def packed_bytes(numel: int, bits: str) -> int:
    """Size of :func:`pack_ternary`'s result."""
    return -(-numel // _format(bits)[0])


def levels_bytes(numel: int, n_ranks: int) -> int:
    """Size of :func:`pack_levels`'s result."""
    return sum(-(-numel // (8 // width)) for _, width in _fields(n_ranks))


def check_workers(n_ranks: int, most: int = MAX_WORKERS) -> None:
    """Raise ValueError unless ``n_ranks`` is in 1..``most``."""
    if not 1 <= n_ranks <= most:
        raise ValueError(
            f'{n_ranks} workers: the sum of their codes does not fit, which holds {most} at most; '
            "set share_scaler=False, transport='all_gather', which adds floats"
        )


def sum_dtype(n_ranks: int) -> torch.dtype:
    """Type of sums of N codes: int8 up to 127 workers, then int16."""
    return torch.int8 if n_ranks <= MAX_INT8_WORKERS else torch.int16


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


def _format(bits: str) -> tuple[int, int]:
    """Codes in a byte and the radix of their digits."""
    if bits not in CODES_PER_BYTE:
        raise ValueError(f'packing {bits!r} is unknown; choose one of {sorted(CODES_PER_BYTE)}')
    return CODES_PER_BYTE[bits], 3 if bits == 'base3' else 4


def _fields(n_ranks: int) -> list[tuple[int, int]]:
    """Shift and width of the fields of a level."""
    fields, shift, left = [], 0, level_bits(n_ranks)
    for width in (8, 4, 2, 1):
        if left & width:
            fields.append((shift, width))
            shift += width
    return fields


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
