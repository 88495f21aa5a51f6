"""Sharpness-aware minimization, which SmoothOut is compared with."""

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmext.engine import phases
from mmext.registry import HOOKS

from .perturbation import Perturbation

_NAME = 'sam'


@HOOKS.register_module()
class SAMHook(Hook):
    """Take every gradient at ``w + rho g / ||g||``, where ``g`` is the gradient at ``w``.

    SAM (arXiv 2010.01412, algorithm 1) on whatever model and optim wrapper a run has. Each rank
    and each micro-batch climbs by its own gradient (the paper's m-sharpness), over all parameters
    of an optimizer. Running statistics of batch norm are those at ``w``.

    Cost: two forward and backward passes; one copy of the parameters. Not on shards (FSDP2), where
    a rank has no gradient of its own.

    Args:
        rho (float): Length of the step uphill, > 0 (paper: 0.05 to 0.1 on CIFAR).

    Raises:
        ValueError: ``rho`` is not positive and finite.

    Example:
        >>> custom_hooks = [dict(type='mmext.SAMHook', rho=0.05)]
    """

    def __init__(self, rho: float = 0.05) -> None:
        if not 0 < rho < float('inf'):
            raise ValueError(f'rho={rho} must be a positive finite number')
        self.rho = rho
        self._members: list[tuple[OptimWrapper, Perturbation]] = []

    def before_train(self, runner) -> None:
        """Attach to the training step."""
        self.after_train(runner)  # a training before this one may have ended with an exception
        for wrapper in phases.members(runner.optim_wrapper).values():
            groups = wrapper.optimizer.param_groups
            perturbation = Perturbation([p for group in groups for p in group['params']])
            self._members.append((wrapper, perturbation))
            attached = phases.attach(wrapper)
            # Inside SmoothOut's noise: last to change the weights, first to put them back.
            attached.register(
                'before_backward',
                lambda loss, a=attached, p=perturbation: self._climb(a, p, loss),
                _NAME,
                order=2000,
            )
            attached.register('after_backward', perturbation.restore, _NAME, order=-2000)
            attached.register('on_exception', lambda _, p=perturbation: p.restore(), _NAME, -2000)

    def after_train(self, runner) -> None:
        """Leave no trace."""
        for wrapper, perturbation in self._members:
            perturbation.restore()
            phases.attach(wrapper).unregister(_NAME)
        self._members = []

    def _climb(self, attached: phases.Phases, perturbation: Perturbation, loss: Tensor) -> Tensor:
        params = perturbation.params
        gradients = attached.gradient(loss, params)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item()
        if 0 < norm < float('inf'):
            torch._foreach_mul_(gradients, self.rho / norm)
            uphill = dict(zip(map(id, params), gradients, strict=True))
            perturbation.inject(lambda param, clean: param.copy_(uphill[id(param)]))
        return attached.recompute()
