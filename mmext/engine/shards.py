"""What a plugin needs to work on the shards of FSDP2; imports nothing of MMEngine.

A plugin that acts on parameters meets DTensors in a sharded run: :func:`shard_of` is what this rank
holds, :func:`whole` gathers all of it, :func:`own_rows` goes back.
"""

from typing import Any

import torch
from torch import Tensor, nn

#: Mend of every refusal.
WITHOUT = 'train without --shard (MMDistributedDataParallel)'


def is_shard(tensor: Tensor) -> bool:
    """Whether a parameter or gradient is a DTensor, of which a rank holds a part."""
    return hasattr(tensor, 'to_local')


def shard_of(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds: the same memory. A plain tensor is its own."""
    if not is_shard(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. On shards every rank must call it: one gather. Plain ones come back."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def own_rows(values: Tensor, like: Tensor) -> Tensor:
    """What of ``values``, equal on all ranks, lies on this rank as ``like`` is laid out."""
    return shard_of(placed(values, like)) if is_shard(like) else values


def is_sharded(model: nn.Module) -> bool:
    """Whether a model has shards of FSDP2."""
    return any(map(is_shard, model.parameters()))


def refuse_shards(model: nn.Module, name: str, reason: str) -> None:
    """For plugins outside the training step that need whole weights.

    Raises:
        TypeError: ``model`` is sharded.
    """
    if is_sharded(model):
        raise TypeError(f'{name} does not work on a sharded model: {reason}; {WITHOUT}')


def placed(values: Tensor, like: Any) -> Tensor:
    """A DTensor of values that every rank has, laid out as ``like``; no rank talks."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)
