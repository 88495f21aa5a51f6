"""Structured sparsity on top of low rank."""

from collections.abc import Sequence

import torch
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from mmext.registry import HOOKS

from .filter_hook import FilterHook
from .functional import shrink_groups
from .layers import matching
from .pair import LowRankConv


@HOOKS.register_module()
class ComponentLassoHook(FilterHook):
    """Group lasso on the components of low-rank pairs while they are fine-tuned.

    A component is a filter of ``basis`` with its column of ``mix``. After every step each is
    shrunk by the proximal operator of ``strength * sum_k ||g_k||`` (ours; the paper's structured
    sparsity is a subgradient, which reaches no exact zeros). ``mmext decompose CONFIG CKPT
    --cut`` then cuts out the components that are zero and writes the smaller model.

    Costs O(weights) per step. Stateless: resuming is exact.

    Args:
        strength: Factor of the group lasso, > 0. Ours.
        include: Regular expressions on the names of low-rank pairs; None: all.
        exclude: Regular expressions on what ``include`` has left.

    Raises:
        ValueError: ``strength`` is out of its range, a pattern matches nothing, or the model has no
            low-rank pair.

    Example:
        >>> custom_hooks = [dict(type='mmext.ComponentLassoHook', strength=1e-3)]
    """

    phases = ('after_update',)

    def __init__(
        self, strength: float, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
    ) -> None:
        super().__init__(include, exclude)
        if not strength > 0:
            raise ValueError(f'strength={strength} must be above 0')
        self.strength = strength

    def choose(self, model: nn.Module) -> dict[str, nn.Module]:
        """Low-rank pairs of the model."""
        pairs = {n: m for n, m in model.named_modules() if isinstance(m, LowRankConv)}
        if not pairs:
            raise ValueError(
                f'{type(model).__name__} has no low-rank pair: ComponentLassoHook serves the '
                'configs that mmext decompose writes'
            )
        kept = set(pairs) if self.include is None else matching(pairs, self.include, 'include')
        kept -= matching(pairs, self.exclude, 'exclude')
        return {name: pair for name, pair in pairs.items() if name in kept}

    def weight_of(self, layer: nn.Module) -> nn.Parameter:
        """A pair goes by the weight of its ``basis``."""
        return layer.basis.weight

    @torch.no_grad()
    def on_after_update(self, optimizer: Optimizer) -> None:
        """Shrink every component."""
        for basis, pair, group in self.owned(optimizer):
            mix = pair.mix.weight
            shrunk = shrink_groups(basis, mix, group['lr'] * self.strength)
            basis.copy_(shrunk[0])
            mix.copy_(shrunk[1])

    def after_train(self, runner: Runner) -> None:
        """Log how many components are left."""
        super().after_train(runner)
        left = ', '.join(
            f'{name} {int(pair.alive().sum())}/{pair.rank}' for name, pair in self.layers.items()
        )
        runner.logger.info(f'components of low-rank pairs that are not zero: {left}')
