"""Encode and decode on CUDA: a Triton kernel each, and the same arithmetic in torch without Triton.

Triton belongs to the CUDA builds of torch. It is imported when a CUDA tensor is met, not before.
"""

import warnings
from functools import cache

import torch
from torch import Tensor

from .packing import CODES_PER_BYTE, sum_dtype, unpack_ternary

_BLOCK = 1024


def ternarize_on_device(
    flat: Tensor,
    scale: float | Tensor,
    limit: float | Tensor,
    generator: torch.Generator,
    out: Tensor,
) -> None:
    """Draw the codes of ``functional.ternarize`` without waiting for the device."""
    inverse, bound = reciprocal(scale, limit, flat.device)
    quantize(flat, draw_bits(flat.numel(), generator), inverse, bound, out)


def reciprocal(
    scale: float | Tensor, limit: float | Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """``1 / s`` (0 where there is nothing to draw) and ``min(limit / s, 1)``, on the device."""
    scale = torch.as_tensor(scale, dtype=torch.float32, device=device)
    limit = torch.as_tensor(limit, dtype=torch.float32, device=device)
    inverse = torch.where(torch.isfinite(scale) & (scale > 0), 1 / scale, 0.0)
    return inverse, torch.where(torch.isfinite(limit), limit * inverse, 1.0).clamp(max=1.0)


def quantize_reference(
    flat: Tensor, bits: Tensor, inverse: Tensor, bound: Tensor, out: Tensor
) -> None:
    """Ternary codes from given random numbers, on any device: what the CUDA kernel computes.

    Args:
        flat: Gradient ``(n,)``.
        bits: Uniform random int32 ``(n,)``; the upper 24 bits count.
        inverse: ``1 / s``, or 0 where there is nothing to draw; 0-dim float32.
        bound: Largest ``|g| / s``, <= 1; 0-dim float32.
        out: Receives the codes, int8 ``(n,)``.
    """
    share = torch.clamp(flat.float() * inverse, -bound, bound)
    uniform = torch.bitwise_right_shift(bits, 8).bitwise_and_(0xFFFFFF).float() * 2.0**-24
    # NaN compares false with everything, so a non-finite gradient gives a valid code as well.
    torch.sub((uniform < share).to(torch.int8), (uniform < -share).to(torch.int8), out=out)


def draw_bits(numel: int, generator: torch.Generator) -> Tensor:
    """Uniform random int32 ``(numel,)`` on the generator's device."""
    bits = torch.empty(numel, dtype=torch.int32, device=generator.device)
    return bits.random_(-(2**31), 2**31, generator=generator)


def quantize(flat: Tensor, bits: Tensor, inverse: Tensor, bound: Tensor, out: Tensor) -> None:
    """Draw ternary codes, see :func:`quantize_reference`: the same codes from the same bits."""
    if flat.device.type == 'cuda' and usable(flat.device.index):
        launch_quantize(flat, bits, inverse, bound, out)
    else:
        quantize_reference(flat, bits, inverse, bound, out)


def sum_packed(packed: Tensor, numel: int) -> Tensor:
    """Sum of the codes of N ranks.

    Args:
        packed: Packed codes, uint8 ``(N, m)``, N <= 16383.
        numel: Codes of each rank.

    Returns:
        Sums in -N..N, ``(numel,)`` of ``packing.sum_dtype``.
    """
    if packed.device.type == 'cuda' and usable(packed.device.index):
        return launch_sum(packed, numel)
    total = unpack_ternary(packed[0], numel).to(sum_dtype(len(packed)))
    for row in packed[1:]:
        total.add_(unpack_ternary(row, numel))
    return total


def launch_quantize(
    flat: Tensor, bits: Tensor, inverse: Tensor, bound: Tensor, out: Tensor
) -> None:
    """Run the encode kernel; arguments of :func:`quantize_reference`."""
    if flat.numel() == 0:
        return
    from .triton_kernels import quantize_kernel

    grid = (-(-flat.numel() // _BLOCK),)
    quantize_kernel[grid](flat, bits, inverse, bound, out, flat.numel(), BLOCK=_BLOCK)


def launch_sum(packed: Tensor, numel: int) -> Tensor:
    """Run the decode kernel; arguments of :func:`sum_packed`."""
    from .triton_kernels import sum_kernel

    ranks, size = packed.shape
    sums = torch.empty(numel, dtype=sum_dtype(ranks), device=packed.device)
    if numel == 0:
        return sums
    sum_kernel[(-(-size // _BLOCK),)](
        packed.contiguous(),
        sums,
        numel,
        size,
        ranks,
        PER_BYTE=CODES_PER_BYTE,
        BLOCK=_BLOCK,
    )
    return sums


@cache
def usable(device: int | None) -> bool:
    """Whether the kernels compile and run on this CUDA device; warns once where they do not."""
    place = torch.device('cuda', device)
    try:
        one = torch.ones((), device=place)
        codes = torch.empty(3, dtype=torch.int8, device=place)
        bits = torch.zeros(3, dtype=torch.int32, device=place)
        launch_quantize(torch.ones(3, device=place), bits, one, one, codes)
        launch_sum(torch.zeros((1, 1), dtype=torch.uint8, device=place), 3)
        torch.cuda.synchronize(place)
    # Triton has no common base of its errors: no compiler, no driver, an unknown architecture.
    except Exception as error:
        warnings.warn(
            f'TernGrad runs without its Triton kernels on {place}, with more passes over memory: '
            f'{type(error).__name__}: {error}',
            stacklevel=2,
        )
        return False
    return True
