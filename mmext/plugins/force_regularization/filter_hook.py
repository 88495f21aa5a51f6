"""Base of the hooks that act on filters around an optimizer step."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from mmext.engine import phases

from .layers import filter_layers


class FilterHook(Hook):
    """Base of the hooks that act on filters around an optimizer step.

    Subclasses have callbacks named like the update phases they use and find their layers in
    ``self.layers`` (name -> module) and ``self.owners`` (parameter -> module).
    """

    #: Phases of :mod:`mmext.engine.phases` whose callback is the method of the same name.
    phases: tuple[str, ...] = ()
    #: Whether they work where a rank has only its rows of the weights (FSDP2).
    shards = False
    runner: Runner

    def __init__(self, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> None:
        for argument, value in (('include', include), ('exclude', exclude)):
            if isinstance(value, str):
                raise ValueError(f'{argument} takes a list of patterns: [{value!r}]')
        self.include = include
        self.exclude = exclude
        self.layers: dict[str, nn.Module] = {}
        self.owners: dict[nn.Parameter, nn.Module] = {}

    def choose(self, model: nn.Module) -> dict[str, nn.Module]:
        """Layers of the unwrapped model to work on."""
        return filter_layers(model, self.include, self.exclude)

    def weight_of(self, layer: nn.Module) -> nn.Parameter:
        """The parameter by which ``owners`` knows a layer."""
        return layer.weight

    def before_train(self, runner: Runner) -> None:
        """Find the layers and register the callbacks."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.runner = runner
        self.layers = self.choose(model)
        self.owners = {self.weight_of(module): module for module in self.layers.values()}
        for wrapper in phases.members(runner.optim_wrapper).values():
            attached = phases.attach(wrapper)
            for phase in self.phases:
                attached.register(
                    phase, getattr(self, f'on_{phase}'), self._name, shards=self.shards
                )

    def after_train(self, runner: Runner) -> None:
        """Take the callbacks back."""
        for wrapper in phases.members(runner.optim_wrapper).values():
            phases.attach(wrapper).unregister(self._name)

    def owned(self, optimizer: Optimizer) -> list[tuple[nn.Parameter, nn.Module, dict]]:
        """Weight, layer and parameter group of the chosen layers that ``optimizer`` updates."""
        return [
            (weight, self.owners[weight], group)
            for group in optimizer.param_groups
            for weight in group['params']
            if weight in self.owners
        ]

    @property
    def _name(self) -> str:
        # Several hooks of one type, each for layers of its own, may serve one run.
        return f'{type(self).__name__}-{id(self)}'
