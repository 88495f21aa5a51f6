"""Lossless entropy coding of codes and sums, by zstandard where it is installed (ours).

Gradients of real networks leave 80 to 95 % of the codes zero, some rows of a layer far more than
others. Neighbours go into one byte, four codes or two sums, and level 1 of zstandard gives the
bytes Huffman codes and says long runs once. What would not become shorter than packed stays packed:
the length alone says which of both was sent.
"""

import threading
from types import ModuleType

import torch
from torch import Tensor

from .packing import (
    level_bits,
    levels_bytes,
    pack_levels,
    pack_ternary,
    packed_bytes,
    sum_dtype,
    unpack_levels,
    unpack_ternary,
)

#: Codes from which coding is tried: a few hundred bytes go to tables of Huffman and to lengths.
MIN_NUMEL = 10_000
# Little-endian words to bytes and back: four fields of 2 bits, or two of 4.
_GATHER_FOUR = 0x01041040
_TWO_BITS, _FOUR_BITS = 0x03030303, 0x0F0F

_zstandard: ModuleType | None
try:
    import zstandard as _zstandard
except ImportError:
    _zstandard = None

_thread = threading.local()


def available() -> bool:
    """Whether zstandard is installed."""
    return _zstandard is not None


def shortened(codes: Tensor) -> Tensor:
    """Ternary codes in few bytes: coded, or the result of ``pack_ternary`` if that is shorter.

    Args:
        codes: -1, 0, 1 as int8, ``(n,)``, on a CPU.

    Returns:
        uint8, at most as many as ``packed_bytes(n)``; as many if they are not coded.
    """
    coded = _compress(_four_in_a_byte(codes))
    return coded if coded.numel() < packed_bytes(codes.numel()) else pack_ternary(codes)


def restored(payload: Tensor, numel: int) -> Tensor:
    """Undo :func:`shortened`, for ``numel`` codes."""
    if payload.numel() == packed_bytes(numel):
        return unpack_ternary(payload, numel)
    words = _decompress(payload, -(-numel // 4)).to(torch.int32)
    spread = words.bitwise_left_shift(6).bitwise_or_(words)
    spread = spread.bitwise_left_shift(12).bitwise_or_(spread).bitwise_and_(_TWO_BITS)
    return spread.view(torch.int8)[:numel].sub_(1)


def shortened_levels(sums: Tensor, n_ranks: int) -> Tensor:
    """Sums of N codes in few bytes: coded, or the result of ``pack_levels`` if that is shorter.

    Args:
        sums: In -N..N, ``(n,)`` of ``sum_dtype``, on a CPU.
        n_ranks: N.
    """
    bits = level_bits(n_ranks)
    if bits > 8:
        whole = pack_levels(sums, n_ranks)
    else:
        whole = _two_in_a_byte(sums, n_ranks) if bits <= 4 else (sums + n_ranks).view(torch.uint8)
    coded = _compress(whole)
    if coded.numel() < levels_bytes(sums.numel(), n_ranks):
        return coded
    return pack_levels(sums, n_ranks)


def restored_levels(payload: Tensor, numel: int, n_ranks: int) -> Tensor:
    """Undo :func:`shortened_levels`, for ``numel`` sums."""
    size = levels_bytes(numel, n_ranks)
    if payload.numel() == size:
        return unpack_levels(payload, numel, n_ranks)
    bits = level_bits(n_ranks)
    if bits > 8:
        return unpack_levels(_decompress(payload, size), numel, n_ranks)
    if bits <= 4:
        words = _decompress(payload, -(-numel // 2)).to(torch.int16)
        words = words.bitwise_left_shift(4).bitwise_or_(words).bitwise_and_(_FOUR_BITS)
        levels = words.view(torch.uint8)[:numel]
    else:
        levels = _decompress(payload, numel)
    return levels.view(sum_dtype(n_ranks)).sub_(n_ranks)


def _four_in_a_byte(codes: Tensor) -> Tensor:
    padded = codes.new_zeros(-(-codes.numel() // 4) * 4)
    torch.add(codes, 1, out=padded[: codes.numel()])
    words = padded.view(torch.int32).mul_(_GATHER_FOUR).bitwise_right_shift_(24)
    return words.to(torch.uint8)


def _two_in_a_byte(sums: Tensor, n_ranks: int) -> Tensor:
    padded = sums.new_zeros(-(-sums.numel() // 2) * 2)
    torch.add(sums, n_ranks, out=padded[: sums.numel()])
    words = padded.view(torch.int16)
    return words.bitwise_or_(words.bitwise_right_shift(4)).to(torch.uint8)


def _compress(whole: Tensor) -> Tensor:
    return _tensor(_coder()[0].compress(whole.numpy()))


def _decompress(payload: Tensor, size: int) -> Tensor:
    return _tensor(_coder()[1].decompress(payload.numpy(), max_output_size=size))


def _coder() -> tuple:
    """Compressor and decompressor of this thread; they must not be shared by two."""
    if not hasattr(_thread, 'coder'):
        if _zstandard is None:
            raise ModuleNotFoundError('coded codes need zstandard: pip install "mmext[terngrad]"')
        # The smallest table of matches: in codes drawn at random there are runs of zeros to match,
        # and anything else that is found by chance is longer than its Huffman code.
        parameters = _zstandard.ZstdCompressionParameters.from_level(
            1, hash_log=6, write_content_size=False, write_checksum=False
        )
        compressor = _zstandard.ZstdCompressor(compression_params=parameters)
        _thread.coder = compressor, _zstandard.ZstdDecompressor()
    return _thread.coder


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
