"""Baseline: trained rank pruning."""

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from mmext.registry import HOOKS

from .filter_hook import FilterHook
from .functional import nuclear_subgradient, truncate


@HOOKS.register_module()
class TrainedRankPruningHook(FilterHook):
    """Trained rank pruning (TRP, arXiv 2004.14566), the baseline of force regularization.

    Every ``interval`` optimizer steps the weights are replaced by their nearest ones of the rank
    that keeps ``energy``; before every step the nuclear norm's subgradient ``U V^T``, of the
    vectors that keep ``energy``, is added to the gradient. Written from the paper; ours is that the
    subgradient is taken afresh at every step, so that no tensor must be kept for a resumed run.

    Costs an eigendecomposition of N x N or D x D per layer and step. Stateless: resuming is exact.

    Args:
        nuclear_weight: Factor of the nuclear norm, >= 0; the authors' ResNet-20 uses 3e-4.
        interval: Optimizer steps between two projections, >= 1; 20 in the authors' code.
        energy: Share of the squared Frobenius norm that is kept, in (0, 1].
        include, exclude: As in
            :class:`~mmext.plugins.force_regularization.hook.ForceRegularizationHook`.

    Raises:
        ValueError: An argument is out of its range, or a pattern matches no layer.

    Example:
        >>> custom_hooks = [dict(type='mmext.TrainedRankPruningHook', nuclear_weight=3e-4)]
    """

    phases = ('before_update', 'after_update')

    def __init__(
        self,
        nuclear_weight: float = 3e-4,
        interval: int = 20,
        energy: float = 0.95,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(include, exclude)
        if nuclear_weight < 0:
            raise ValueError(f'nuclear_weight={nuclear_weight} must not be negative')
        if interval < 1:
            raise ValueError(f'interval={interval} must be at least 1')
        if not 0 < energy <= 1:
            raise ValueError(f'energy={energy} must be in (0, 1]')
        self.nuclear_weight = nuclear_weight
        self.interval = interval
        self.energy = energy

    @torch.no_grad()
    def on_before_update(self, optimizer: Optimizer) -> None:
        """Add the nuclear norm's subgradient."""
        if not self.nuclear_weight:
            return
        for weight, layer, group in self.owned(optimizer):
            if weight.grad is not None:
                slope = nuclear_subgradient(weight, self.energy, getattr(layer, 'groups', 1))
                sign = -1 if group.get('maximize') else 1
                weight.grad.add_(slope, alpha=sign * self.nuclear_weight)

    @torch.no_grad()
    def on_after_update(self, optimizer: Optimizer) -> None:
        """Project the weights at every ``interval``-th step."""
        counts = getattr(self.runner.optim_wrapper, '_accumulative_counts', 1)
        if -(-(self.runner.iter + 1) // counts) % self.interval:
            return
        for weight, layer, _ in self.owned(optimizer):
            weight.copy_(truncate(weight, self.energy, getattr(layer, 'groups', 1)))
