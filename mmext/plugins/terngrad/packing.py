"""Ternary codes and their sums in bytes; ours.

Planar, so that packing is a few additions of whole tensors.
"""

import torch
from torch import Tensor

#: Ternary codes in one byte: 3^5 <= 256.
CODES_PER_BYTE = 5
#: Most workers whose sum of codes fits into an int8; from here on it is an int16.
MAX_INT8_WORKERS = 127
#: Most workers whose sum of codes fits into an int16 and 15 bits.
MAX_WORKERS = 16383


def pack_ternary(codes: Tensor) -> Tensor:
    """Pack five ternary codes into a byte, planar: byte j of m holds the codes j, j + m, j + 2m ...

    Args:
        codes: -1, 0, 1 as int8, ``(n,)``.

    Returns:
        uint8 ``(ceil(n / 5),)``: 1.6 bits for a code.
    """
    size = packed_bytes(codes.numel())
    # Every digit is the code + 1, and bytes wrap around, so one sum adds all the ones.
    ones = sum(3**digit for digit in range(CODES_PER_BYTE))
    packed = torch.full((size,), ones, dtype=torch.uint8, device=codes.device)
    planes = codes.reshape(-1).view(torch.uint8)
    for digit in range(CODES_PER_BYTE):
        plane = planes[digit * size : (digit + 1) * size]
        packed[: plane.numel()].add_(plane, alpha=3**digit)
    return packed


def unpack_ternary(packed: Tensor, numel: int) -> Tensor:
    """Undo :func:`pack_ternary`.

    Args:
        packed: uint8 ``(m,)``.
        numel: Number of codes.

    Returns:
        Codes -1, 0, 1, int8 ``(numel,)``.

    Raises:
        ValueError: ``packed`` has not the size that ``numel`` codes take.
    """
    size = packed.numel()
    if size != packed_bytes(numel):
        raise ValueError(f'{numel} codes take {packed_bytes(numel)} bytes, got {size}')
    codes = torch.empty(numel, dtype=torch.int8, device=packed.device)
    digits = codes.view(torch.uint8)
    rest = packed.clone()
    above = torch.empty_like(rest)
    for digit in reversed(range(CODES_PER_BYTE)):
        plane = digits[digit * size : (digit + 1) * size]
        count = plane.numel()
        # Byte-wise comparisons in place are many times faster than a division or a table.
        weight = 3**digit
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

    The bits of a level are cut into fields of 8, 4, 2 or 1 bits, and each field is packed planar,
    so that 3 bits need no shifting across bytes.

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
    wanted = levels_bytes(numel, n_ranks)
    if packed.numel() != wanted:
        raise ValueError(
            f'{numel} levels of {n_ranks} ranks take {wanted} bytes, got {packed.numel()}'
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


def packed_bytes(numel: int) -> int:
    """Size of :func:`pack_ternary`'s result."""
    return -(-numel // CODES_PER_BYTE)


def levels_bytes(numel: int, n_ranks: int) -> int:
    """Size of :func:`pack_levels`'s result."""
    return sum(-(-numel // (8 // width)) for _, width in _fields(n_ranks))


def check_workers(n_ranks: int) -> None:
    """Raise ValueError unless ``n_ranks`` is in 1..:data:`MAX_WORKERS`."""
    if not 1 <= n_ranks <= MAX_WORKERS:
        raise ValueError(
            f'{n_ranks} workers: the sum of their codes does not fit, which holds {MAX_WORKERS} at '
            'most; set share_scaler=False, which adds floats'
        )


def sum_dtype(n_ranks: int) -> torch.dtype:
    """Type of sums of N codes: int8 up to 127 workers, then int16."""
    return torch.int8 if n_ranks <= MAX_INT8_WORKERS else torch.int16


def _fields(n_ranks: int) -> list[tuple[int, int]]:
    """Shift and width of the fields of a level."""
    fields, shift, left = [], 0, level_bits(n_ranks)
    for width in (8, 4, 2, 1):
        if left & width:
            fields.append((shift, width))
            shift += width
    return fields
