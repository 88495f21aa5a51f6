"""The Triton kernels behind :mod:`.kernels`; needs Triton, which CUDA builds of torch bring."""

import triton  # type: ignore
import triton.language as tl  # type: ignore


@triton.jit
def quantize_kernel(grads, bits, inverse, bound, out, numel, BLOCK: tl.constexpr):  # noqa: N803
    """Codes of one block of elements; arguments of ``kernels.quantize_reference``."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < numel
    largest = tl.load(bound)
    share = tl.load(grads + place, mask=inside, other=0.0).to(tl.float32) * tl.load(inverse)
    # minimum and maximum drop a NaN, torch's clamp does not.
    share = tl.where(share == share, share, 0.0)
    share = tl.minimum(tl.maximum(share, -largest), largest)
    word = tl.load(bits + place, mask=inside, other=0)
    uniform = ((word >> 8) & 0xFFFFFF).to(tl.float32) * 5.9604644775390625e-08
    code = (uniform < share).to(tl.int8) - (uniform < -share).to(tl.int8)
    tl.store(out + place, code, mask=inside)


@triton.jit
def sum_kernel(
    packed,
    sums,
    numel,
    size,
    ranks,
    PER_BYTE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Sums of the codes in one block of bytes; ``packed`` is ``(ranks, size)``."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    for digit in tl.static_range(PER_BYTE):
        total = tl.zeros([BLOCK], dtype=tl.int32)
        source = place
        for _ in range(ranks):
            word = tl.load(packed + source, mask=inside, other=0).to(tl.int32)
            total += (word // (3**digit)) % 3 - 1
            source += size
        target = digit * size + place
        tl.store(sums + target, total.to(sums.dtype.element_ty), mask=inside & (target < numel))
