"""Plugins that each break one promise. None of them is what anybody would want to register."""

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from mmext.engine import phases


class _Opaque:
    """Something that only its own code can load."""


class _Update(Hook):
    """Add something to the first weight before every update."""

    def before_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.weight = next(model.parameters())
        self.runner = runner
        self.phases = phases.attach(runner.optim_wrapper)
        self.phases.register('before_update', self.update, 'broken')

    def after_train(self, runner):
        self.phases.unregister('broken')

    @torch.no_grad()
    def update(self, optimizer):
        self.weight.add_(1e-3)


@HOOKS.register_module()
class Sound(_Update):
    """Breaks nothing: draws are none, the state is a function of the iteration."""

    def __init__(self, strength=1.0):
        self.strength = strength

    @torch.no_grad()
    def update(self, optimizer):
        self.weight.add_(1e-3 * self.strength * (self.runner.iter + 1))


@HOOKS.register_module()
class RaisesOnBuild(Hook):
    def __init__(self):
        raise RuntimeError('no such luck')


@HOOKS.register_module()
class MakesNaN(_Update):
    @torch.no_grad()
    def update(self, optimizer):
        self.weight.mul_(float('nan'))


@HOOKS.register_module()
class HoldsUpdates(_Update):
    @torch.no_grad()
    def update(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group['params']:
                parameter.grad = None


@HOOKS.register_module()
class TakesAnObject(Hook):
    def __init__(self, thing):
        self.thing = thing


@HOOKS.register_module()
class MovesEveryIteration(Hook):
    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        next(runner.model.parameters()).add_(1e-3)


@HOOKS.register_module()
class CountsByItself(_Update):
    """The count begins anew when the run is resumed."""

    calls = 0

    def before_train(self, runner):
        super().before_train(runner)
        self.calls = 0

    @torch.no_grad()
    def update(self, optimizer):
        self.calls += 1
        self.weight.add_(1e-3 * self.calls)


@HOOKS.register_module()
class DrawsFromItsOwnGenerator(_Update):
    def before_train(self, runner):
        super().before_train(runner)
        self.generator = torch.Generator().manual_seed(1)

    @torch.no_grad()
    def update(self, optimizer):
        self.weight.add_(1e-3 * torch.rand((), generator=self.generator))


@HOOKS.register_module()
class DrawsFromTheGlobalGenerator(_Update):
    @torch.no_grad()
    def update(self, optimizer):
        self.weight.add_(1e-3 * torch.randn_like(self.weight))


@HOOKS.register_module()
class MovesRanksApart(_Update):
    @torch.no_grad()
    def update(self, optimizer):
        self.weight.add_(1e-3 * get_rank())


@HOOKS.register_module()
class KeepsARankToItself(_Update):
    """All ranks add the same, but what rank 1 has counted is not in the checkpoint."""

    def before_train(self, runner):
        super().before_train(runner)
        self.count = torch.zeros(())
        if get_rank() == 0:
            self.count += runner.iter

    @torch.no_grad()
    def update(self, optimizer):
        self.count += 1
        total = self.count.clone()
        all_reduce(total)
        self.weight.add_(1e-3 * total)


@HOOKS.register_module()
class FailsOnRanks(_Update):
    def before_train(self, runner):
        # What DDP does not have.
        super().before_train(runner)
        runner.model.backbone  # noqa: B018


@HOOKS.register_module()
class NeverDetaches(_Update):
    def after_train(self, runner):
        """Forget it."""


@HOOKS.register_module()
class NeedsFloat32(Hook):
    """NumPy has no bfloat16."""

    def before_train(self, runner):
        backbone = runner.model.backbone
        self.handle = backbone.register_forward_hook(lambda *a: a[-1][0].detach().numpy().sort())

    def after_train(self, runner):
        self.handle.remove()


@HOOKS.register_module()
class LeavesAForwardHook(Hook):
    def before_train(self, runner):
        runner.model.backbone.register_forward_hook(lambda *_: None)


@HOOKS.register_module()
class ReplacesForward(Hook):
    def before_train(self, runner):
        forward = runner.model.backbone.forward
        runner.model.backbone.forward = lambda *args: forward(*args)


@HOOKS.register_module()
class LeavesAGradientHook(Hook):
    def before_train(self, runner):
        next(runner.model.parameters()).register_hook(lambda gradient: gradient)


@HOOKS.register_module()
class SavesAnObject(Hook):
    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['opaque'] = {'things': [1, _Opaque()]}


@HOOKS.register_module()
class TellsTheHubAnObject(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.message_hub.update_info('opaque', _Opaque())


@HOOKS.register_module()
class TakesAnything(Hook):
    def __init__(self, **kwargs):
        self.kwargs = kwargs


@HOOKS.register_module()
class HidesTheArgument(Hook):
    def __init__(self, **kwargs):
        if kwargs:
            raise ValueError('wrong arguments')
