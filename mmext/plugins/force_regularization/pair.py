"""The low-rank form of a convolution."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .functional import component_views, factorize, fold, unfold


class LowRankConv(nn.Sequential):
    """Two plain convolutions, ``basis`` and ``mix``, in the place of one.

    ``basis`` has K filters (per group) with the kernel, stride, padding, dilation and groups of the
    layer and no bias; ``mix`` combines them with a 1x1 kernel and has the bias. ``spatial``:
    ``basis`` is kh x 1 and ``mix`` 1 x kw, each with its direction of stride, padding and dilation.

    Args:
        conv: Gives shapes, dtype, device, bias and whether there is something to train. Not
            changed.
        rank: K, filters of ``basis`` per group, >= 1.
        spatial: Split the kernel instead of channels and filters.
    """

    basis: nn.Conv2d
    mix: nn.Conv2d

    def __init__(self, conv: nn.Conv2d, rank: int, spatial: bool = False) -> None:
        super().__init__()
        shared: dict[str, Any] = {
            'groups': conv.groups,
            'device': conv.weight.device,
            'dtype': conv.weight.dtype,
        }
        first, second = _geometry(conv, spatial)
        self.basis = nn.Conv2d(conv.in_channels, rank * conv.groups, bias=False, **first, **shared)
        has_bias = conv.bias is not None
        self.mix = nn.Conv2d(
            rank * conv.groups, conv.out_channels, bias=has_bias, **second, **shared
        )
        if has_bias:
            self.mix.bias.data.copy_(conv.bias.data)
        self.requires_grad_(conv.weight.requires_grad).train(conv.training)

    @property
    def rank(self) -> int:
        """Filters of ``basis`` per group."""
        return self.basis.out_channels // self.basis.groups

    def alive(self) -> Tensor:
        """Which components are not zero (in some group): bool, shape (K,)."""
        rows, columns = component_views(self.basis.weight, self.mix.weight)
        return ((rows != 0).any(-1) & (columns != 0).any(3).any(1)).any(0)


def _geometry(conv: nn.Conv2d, spatial: bool) -> tuple[dict, dict]:
    """Kernel, stride, padding and dilation of the two convolutions."""
    names = ('kernel_size', 'stride', 'padding', 'dilation')
    both = {name: getattr(conv, name) for name in names}
    if not spatial:
        return {**both, 'padding_mode': conv.padding_mode}, {'kernel_size': 1}
    first: dict[str, Any] = {'padding_mode': conv.padding_mode}
    second: dict[str, Any] = {'padding_mode': conv.padding_mode}
    for name, value in both.items():
        neutral = 0 if name == 'padding' else 1
        # 'same' and 'valid' mean the right thing for each direction.
        first[name] = value if isinstance(value, str) else (value[0], neutral)
        second[name] = value if isinstance(value, str) else (neutral, value[1])
    return first, second


@torch.no_grad()
def low_rank_conv(conv: nn.Conv2d, rank: int, method: str = 'pca') -> LowRankConv:
    """Return the low-rank form of ``conv``.

    Any rank up to the full one is taken, also where the pair costs more than the layer;
    :func:`~mmext.plugins.force_regularization.lowrank.decompose` refuses those. At full rank it
    computes what ``conv`` does.

    Args:
        conv: Not changed.
        rank: Filters of ``basis`` per group, in [1, full rank].
        method: As in :func:`~mmext.plugins.force_regularization.functional.factorize`.

    Raises:
        ValueError: Unknown ``method`` or ``rank`` out of its range.
    """
    spatial = method == 'spatial'
    pair = LowRankConv(conv, rank, spatial)
    matrices = unfold(conv.weight, conv.groups, spatial)
    factors = [factorize(matrix, rank, method) for matrix in matrices]
    left, right = (torch.stack(part) for part in zip(*factors, strict=True))
    basis, mix = fold(left, right, tuple(conv.weight.shape), spatial)
    pair.basis.weight.copy_(basis)
    pair.mix.weight.copy_(mix)
    return pair


def swap(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put ``new[module]`` in the place of ``module``, wherever ``model`` uses it."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]


@torch.no_grad()
def cut_components(model: nn.Module) -> dict[str, int]:
    """Cut out the components of low-rank pairs that are zero, as group lasso leaves them.

    The model computes the same; one component stays in every pair.

    Args:
        model: Changed in place.

    Returns:
        Name -> rank of all pairs, as ``mmext.LowRank`` takes it.
    """
    ranks = {}
    for name, pair in model.named_modules():
        if not isinstance(pair, LowRankConv):
            continue
        basis, mix, alive = pair.basis, pair.mix, pair.alive()
        alive[0] |= not alive.any()
        kept = basis.weight.unflatten(0, (basis.groups, -1))[:, alive].flatten(0, 1)
        basis.weight = nn.Parameter(kept, basis.weight.requires_grad)
        mix.weight = nn.Parameter(mix.weight[:, alive], mix.weight.requires_grad)
        basis.out_channels = mix.in_channels = len(kept)
        ranks[name] = pair.rank
    return ranks
