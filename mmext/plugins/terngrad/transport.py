"""Sums of ternary codes over the ranks of a process group, in few bits (ours).

The paper's parameter server is one machine; here every rank is the server of its share. All
functions are called by every rank of the group with codes of one length, block until the result is
there (with NCCL: until it is queued on the current stream) and give each rank the same bits.
"""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from .kernels import sum_packed
from .packing import (
    CODES_PER_BYTE,
    MAX_INT8_WORKERS,
    check_workers,
    level_bits,
    levels_bytes,
    pack_levels,
    pack_ternary,
    packed_bytes,
    unpack_levels,
)

TRANSPORTS = ('auto', 'all_gather', 'two_shot', 'int8_all_reduce')

# torch 2.13 renamed it and warns about the old name.
_gather = getattr(dist, 'all_gather_single', None) or dist.all_gather_into_tensor
# Backends of torch that have all_to_all_single.
_ALL_TO_ALL = ('gloo', 'nccl', 'mpi', 'ucc', 'xccl')


def all_gather(codes: Tensor, group: dist.ProcessGroup | None, packing: str = 'base3') -> Tensor:
    """Give every rank the packed codes of every other: least for 2 and 3 ranks.

    Args:
        codes: -1, 0, 1 as int8, ``(n,)``.
        group: Process group of N ranks; None is the default group.
        packing: 'base3' or '2bit'.

    Returns:
        Sums in -N..N, ``(n,)``: int8 up to 127 ranks, then int16.

    Raises:
        ValueError: More than 16383 ranks or unknown ``packing``.
    """
    n_ranks = dist.get_world_size(group)
    check_workers(n_ranks)
    gathered = gather_bytes(pack_ternary(codes, packing), group)
    return sum_packed(gathered, codes.numel(), packing)


def gather_bytes(payload: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Payloads of all N ranks, uint8 ``(m,)`` -> ``(N, m)``."""
    n_ranks = dist.get_world_size(group)
    gathered = payload.new_empty(n_ranks * payload.numel())
    _gather(gathered, payload, group=group)
    return gathered.view(n_ranks, -1)


def two_shot(codes: Tensor, group: dist.ProcessGroup | None, packing: str = 'base3') -> Tensor:
    """Send each rank its share of the codes, let it add them, and gather the sums.

    The sums have ``2N + 1`` levels and take ``ceil(log2(2N + 1))`` bits. Arguments, result and
    errors are those of :func:`all_gather`.
    """
    n_ranks = dist.get_world_size(group)
    check_workers(n_ranks)
    share = -(-codes.numel() // n_ranks)
    padded = codes
    if share * n_ranks != codes.numel():
        padded = torch.cat([codes, codes.new_zeros(share * n_ranks - codes.numel())])
    sent = torch.cat([pack_ternary(part, packing) for part in padded.view(n_ranks, share)])
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    own = sum_packed(received.view(n_ranks, -1), share, packing)
    rows = gather_bytes(pack_levels(own, n_ranks), group)
    sums = torch.cat([unpack_levels(row, share, n_ranks) for row in rows])
    return sums[: codes.numel()]


def int8_all_reduce(codes: Tensor, group: dist.ProcessGroup | None, packing: str = '') -> Tensor:
    """Add the unpacked codes with one all-reduce: for backends without all-to-all.

    ``packing`` is not used. Result and errors are those of :func:`all_gather`, but it stops at 127
    ranks.
    """
    check_workers(dist.get_world_size(group), MAX_INT8_WORKERS)
    sums = codes.clone()
    dist.all_reduce(sums, group=group)
    return sums


_FUNCTIONS: dict[str, Callable[[Tensor, dist.ProcessGroup | None, str], Tensor]] = {
    'all_gather': all_gather,
    'two_shot': two_shot,
    'int8_all_reduce': int8_all_reduce,
}


def add_up(
    transport: str, codes: Tensor, group: dist.ProcessGroup | None, packing: str = 'base3'
) -> Tensor:
    """Run the transport of this name (not 'auto', see :func:`choose`)."""
    return _FUNCTIONS[transport](codes, group, packing)


def choose(n_ranks: int, backend: str = 'gloo', share_scaler: bool = True) -> str:
    """The transport that 'auto' stands for.

    Args:
        n_ranks: N.
        backend: Of the process group.
        share_scaler: Without a shared scaler only the codes of single ranks can travel.

    Returns:
        'all_gather' for up to three ranks, 'two_shot' from four on, 'int8_all_reduce' where the
        backend has no all-to-all.
    """
    if n_ranks <= 3 or not share_scaler:
        return 'all_gather'
    return 'two_shot' if backend in _ALL_TO_ALL else 'int8_all_reduce'


def wire_bits(transport: str, n_ranks: int, packing: str = 'base3') -> float:
    """Bits that each rank sends for one element.

    Args:
        transport: 'auto', 'all_gather', 'two_shot', 'int8_all_reduce', or 'float32' for the
            ring all-reduce that DDP does by itself.
        n_ranks: N >= 1.
        packing: 'base3' (8/5 bits) or '2bit'.

    Returns:
        ``(N - 1) * code`` for all_gather; ``(N - 1) / N * (code + ceil(log2(2N + 1)))`` for
        two_shot; ``(N - 1) / N * 16`` and ``* 64`` for the all-reduces.

    Raises:
        ValueError: Unknown transport or packing, or no rank.

    Example:
        >>> wire_bits('all_gather', 2), wire_bits('two_shot', 4, '2bit')
        (1.6, 4.5)
    """
    if n_ranks < 1:
        raise ValueError(f'n_ranks={n_ranks} must be at least 1')
    check_packing(packing)
    transport = choose(n_ranks) if transport == 'auto' else transport
    code = 8 / CODES_PER_BYTE[packing]
    if transport == 'all_gather':
        return (n_ranks - 1) * code
    others = (n_ranks - 1) / n_ranks
    bits = {'two_shot': code + level_bits(n_ranks), 'int8_all_reduce': 16.0, 'float32': 64.0}
    if transport not in bits:
        raise ValueError(f'transport {transport!r} is unknown; choose one of {list(TRANSPORTS)}')
    return others * bits[transport]


def sent_bytes(transport: str, numel: int, n_ranks: int, packing: str = 'base3') -> float:
    """Bytes that each rank sends for a tensor, with the padding; arguments of :func:`wire_bits`."""
    if transport == 'all_gather':
        return (n_ranks - 1) * packed_bytes(numel, packing)
    if transport == 'two_shot':
        share = math.ceil(numel / n_ranks)
        return (n_ranks - 1) * (packed_bytes(share, packing) + levels_bytes(share, n_ranks))
    return numel * wire_bits(transport, n_ranks) / 8


def check_packing(packing: str) -> None:
    """Raise ValueError unless ``packing`` is known."""
    if packing not in CODES_PER_BYTE:
        raise ValueError(f'packing {packing!r} is unknown; choose one of {sorted(CODES_PER_BYTE)}')


def check_transport(transport: str, share_scaler: bool) -> None:
    """Raise ValueError unless ``transport`` is known and possible."""
    if transport not in TRANSPORTS:
        raise ValueError(f'transport {transport!r} is unknown; choose one of {list(TRANSPORTS)}')
    if not share_scaler and transport not in ('auto', 'all_gather'):
        raise ValueError(
            f'transport={transport!r} adds the codes of all ranks and needs one scaler for all; '
            "set share_scaler=True or transport='all_gather'"
        )
