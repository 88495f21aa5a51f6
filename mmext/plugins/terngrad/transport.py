"""Sums of ternary codes over the ranks of a process group, in few bits (ours).

The paper's parameter server is one machine; here every rank is the server of its share. All
functions are called by every rank of the group with codes of one length, block until the result is
there (with NCCL: until it is queued on the current stream) and give each rank the same bits.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from . import coding
from .kernels import sum_packed
from .packing import (
    CODES_PER_BYTE,
    check_workers,
    level_bits,
    levels_bytes,
    pack_levels,
    pack_ternary,
    packed_bytes,
    sum_dtype,
    unpack_levels,
)
from .requantize import requantize

TRANSPORTS = ('ternary', 'auto')

# torch 2.13 renamed it and warns about the old name.
_gather = getattr(dist, 'all_gather_single', None) or dist.all_gather_into_tensor
# Backends of torch that have all_to_all_single.
_ALL_TO_ALL = ('gloo', 'nccl', 'mpi', 'ucc', 'xccl')
_LENGTH_BYTES = 4


class Wire:
    """The ranks of a group, and how many bytes this one has sent them.

    Args:
        group: None is the default group.
        coded: Whether payloads are shortened where that pays; needs zstandard and CPU tensors, and
            must be the same on all ranks.

    Attributes:
        sent: Bytes of the payloads that this rank has sent.
    """

    def __init__(self, group: dist.ProcessGroup | None, coded: bool = False) -> None:
        self.group, self.coded = group, coded
        self.n_ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.sent = 0.0

    def all_reduce(self, values: Tensor, op: dist.ReduceOp = dist.ReduceOp.SUM) -> Tensor:
        """Reduce over the ranks, in place."""
        dist.all_reduce(values, op=op, group=self.group)
        bits = wire_bits('float32', self.n_ranks) * values.element_size() / 4
        self.sent += values.numel() * bits / 8
        return values

    def all_gather(self, piece: Tensor) -> list[Tensor]:
        """Pieces of one size, of all ranks."""
        gathered = piece.new_empty(self.n_ranks * piece.numel())
        _gather(gathered, piece, group=self.group)
        self.sent += (self.n_ranks - 1) * piece.numel()
        return list(gathered.view(self.n_ranks, -1))

    def all_to_all(self, pieces: Sequence[Tensor], sizes: Sequence[int] | None) -> list[Tensor]:
        """Give piece r to rank r, and take what the others have for this one.

        Args:
            pieces: N of uint8, on one device, of any lengths.
            sizes: What comes from each rank; None where only the senders know, and say it first.

        Returns:
            N pieces; the own one as it is.
        """
        if self.n_ranks == 1:
            return list(pieces)
        mine = [0 if rank == self.rank else len(piece) for rank, piece in enumerate(pieces)]
        if sizes is None:
            lengths = torch.tensor(mine, dtype=torch.int32, device=pieces[0].device)
            coming = torch.empty_like(lengths)
            dist.all_to_all_single(coming, lengths, group=self.group)
            self.sent += _LENGTH_BYTES * (self.n_ranks - 1)
            sizes = coming.tolist()
        theirs = [0 if rank == self.rank else size for rank, size in enumerate(sizes)]
        others = [piece for rank, piece in enumerate(pieces) if rank != self.rank]
        received = pieces[0].new_empty(sum(theirs))
        dist.all_to_all_single(received, torch.cat(others), theirs, mine, group=self.group)
        self.sent += sum(mine)
        result = list(received.split(theirs))
        result[self.rank] = pieces[self.rank]
        return result


def add_up(codes: Tensor, wire: Wire, generator: torch.Generator | None = None) -> Tensor:
    """Sum of the codes of all ranks, the way that sends least.

    Args:
        codes: -1, 0, 1 as int8, ``(n,)``.
        wire: The ranks.
        generator: Of this rank's share of the sums, on the device of the codes: they are rounded to
            fewer levels by :func:`~mmext.plugins.terngrad.requantize.requantize`. None sends them
            exactly.

    Returns:
        Sums in -N..N, ``(n,)``: int8 up to 127 ranks, then int16; rounded ones are float32.

    Raises:
        ValueError: More than 16383 ranks.
    """
    check_workers(wire.n_ranks)
    if choose(wire.n_ranks, backend_of(wire.group, codes.device)) == 'all_gather':
        return all_gather(codes, wire)
    return two_shot(codes, wire, generator)


def all_gather(codes: Tensor, wire: Wire) -> Tensor:
    """Give every rank the codes of every other: least for two; see :func:`add_up`."""
    if not is_coded(codes.numel(), wire):
        return sum_packed(torch.stack(wire.all_gather(pack_ternary(codes))), codes.numel())
    payload = coding.shortened(codes)
    return _add(codes, wire.all_to_all([payload] * wire.n_ranks, None), wire)


def two_shot(codes: Tensor, wire: Wire, generator: torch.Generator | None = None) -> Tensor:
    """Send each rank its share of the codes, let it add them, and gather the sums.

    The sums have ``2N + 1`` levels and take ``ceil(log2(2N + 1))`` bits at most. Arguments, result
    and errors are those of :func:`add_up`.
    """
    n_ranks = wire.n_ranks
    parts = codes.tensor_split(n_ranks)
    numels = [part.numel() for part in parts]
    coded = is_coded(numels[0], wire)
    own = parts[wire.rank]
    if coded:
        pieces = [own.view(torch.uint8) if part is own else coding.shortened(part)
                  for part in parts]  # fmt: skip
        sums = _add(own, wire.all_to_all(pieces, None), wire)
    else:
        size = packed_bytes(own.numel())
        received = wire.all_to_all([pack_ternary(part) for part in parts], [size] * n_ranks)
        sums = sum_packed(torch.stack(received), own.numel())
    if generator is not None:
        return _gather_rounded(sums, numels, wire, coded, generator)
    payload = _pack_sums(sums, n_ranks, coded)
    sizes = [levels_bytes(numel, n_ranks) for numel in numels]
    gathered = wire.all_to_all([payload] * n_ranks, None if coded else sizes)
    return torch.cat([
        _unpack_sums(piece, numel, n_ranks, coded)
        for piece, numel in zip(gathered, numels, strict=True)
    ])  # fmt: skip


def is_coded(numel: int, wire: Wire) -> bool:
    """Whether payloads of ``numel`` codes are shortened."""
    return wire.coded and numel >= coding.MIN_NUMEL


def _add(own: Tensor, payloads: Sequence[Tensor], wire: Wire) -> Tensor:
    """Own codes and those of the other ranks."""
    total = own.to(sum_dtype(wire.n_ranks), copy=True)
    for rank, payload in enumerate(payloads):
        if rank != wire.rank:
            total.add_(coding.restored(payload, own.numel()))
    return total


def _gather_rounded(
    sums: Tensor, numels: list[int], wire: Wire, coded: bool, generator: torch.Generator
) -> Tensor:
    """Sums of all shares after rounding; each share says the distance and the number of levels."""
    levels, step = requantize(sums, generator)
    most = levels.abs().amax() if levels.numel() else levels.sum()
    count = max(int(most), 1)
    head = torch.tensor([float(step), count], device=sums.device).view(torch.uint8)
    payload = torch.cat([head, _pack_sums(levels.to(sum_dtype(count)), count, coded)])
    found = []
    for piece, numel in zip(wire.all_to_all([payload] * wire.n_ranks, None), numels, strict=True):
        share_step, share_count = piece[: head.numel()].clone().view(torch.float32).tolist()
        levels = _unpack_sums(piece[head.numel() :], numel, int(share_count), coded)
        found.append(levels * share_step)
    return torch.cat(found)


def _pack_sums(sums: Tensor, n_ranks: int, coded: bool) -> Tensor:
    return coding.shortened_levels(sums, n_ranks) if coded else pack_levels(sums, n_ranks)


def _unpack_sums(piece: Tensor, numel: int, n_ranks: int, coded: bool) -> Tensor:
    unpack = coding.restored_levels if coded else unpack_levels
    return unpack(piece, numel, n_ranks)


def backend_of(group: dist.ProcessGroup | None, device: torch.device) -> str:
    """Name of the backend that a group has for tensors of ``device``.

    A group that was made without a name has one for each kind of device, and ``get_backend`` calls
    it 'undefined'.
    """
    name = dist.get_backend(group)
    if name != 'undefined':
        return name
    pairs = (pair.split(':') for pair in dist.get_backend_config(group).split(','))
    return dict(pairs).get(device.type, name)


def has_all_to_all(backend: str) -> bool:
    """Whether a backend has ``all_to_all_single``."""
    return backend in _ALL_TO_ALL


def choose(n_ranks: int, backend: str = 'gloo') -> str:
    """The way of :func:`add_up`.

    Args:
        n_ranks: N.
        backend: Of the process group for the device of the codes.

    Returns:
        'all_gather' for up to two ranks and where the backend has no all-to-all, else 'two_shot'.
    """
    return 'two_shot' if n_ranks > 2 and has_all_to_all(backend) else 'all_gather'


def wire_bits(transport: str, n_ranks: int) -> float:
    """Bits that each rank sends for one element, at most: coded payloads are shorter.

    Args:
        transport: 'ternary', the least of 'all_gather' and 'two_shot', or 'float32' and 'bfloat16'
            for the ring all-reduce that DDP does by itself.
        n_ranks: N >= 1.

    Returns:
        ``(N - 1) * 8/5`` for all_gather; ``(N - 1) / N * (8/5 + ceil(log2(2N + 1)))`` for two_shot;
        ``(N - 1) / N * 64`` and ``* 32`` for the all-reduces.

    Raises:
        ValueError: Unknown transport, or no rank.

    Example:
        >>> wire_bits('ternary', 2), wire_bits('float32', 2)
        (1.6, 32.0)
    """
    if n_ranks < 1:
        raise ValueError(f'n_ranks={n_ranks} must be at least 1')
    transport = choose(n_ranks) if transport == 'ternary' else transport
    code = 8 / CODES_PER_BYTE
    if transport == 'all_gather':
        return (n_ranks - 1) * code
    others = (n_ranks - 1) / n_ranks
    bits = {'two_shot': code + level_bits(n_ranks), 'float32': 64.0, 'bfloat16': 32.0}
    if transport not in bits:
        raise ValueError(
            f"transport {transport!r} is unknown; choose 'ternary' or one of "
            f'{["all_gather", *bits]}'
        )
    return others * bits[transport]


def check_transport(transport: str) -> None:
    """Raise ValueError unless ``transport`` is known."""
    if transport not in TRANSPORTS:
        raise ValueError(f'transport {transport!r} is unknown; choose one of {list(TRANSPORTS)}')
