"""Which layers of a model a hook or a decomposition works on."""

import difflib
import re
from collections.abc import Iterable, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from mmext.engine import phases

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def matching(names: Iterable[str], patterns: Sequence[str], argument: str) -> set[str]:
    """Names in which ``re.search`` finds one of the patterns.

    Raises:
        ValueError: A pattern is no regular expression or matches no name.
    """
    names, found = list(names), set()
    for pattern in patterns:
        try:
            hits = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(
                f'{argument}: {pattern!r} is no regular expression: {error}'
            ) from error
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise ValueError(
                f'{argument}: {pattern!r} matches no layer of the model; there are {len(names)}, '
                f'such as {", ".join(near)}'
            )
        found |= hits
    return found


def filter_layers(
    model: nn.Module, include: Sequence[str] | None, exclude: Sequence[str]
) -> dict[str, nn.Module]:
    """Layers with several trainable filters per group, by name.

    Args:
        model: Not wrapped.
        include: Regular expressions on the names of convolutions and linear layers; None: all
            convolutions.
        exclude: Regular expressions on what ``include`` has left.

    Raises:
        ValueError: A pattern, or all of them together, matches nothing.
    """
    kinds = CONVOLUTIONS if include is None else (*CONVOLUTIONS, nn.Linear)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        # Spectral norm: to ask for such a weight moves its state, and no optimizer has it.
        and not is_parametrized(module, 'weight')
        and module.weight.requires_grad
        and module.weight.shape[0] // getattr(module, 'groups', 1) > 1
    }
    if include is not None:
        chosen = matching(layers, include, 'include')
        layers = {name: module for name, module in layers.items() if name in chosen}
    dropped = matching(layers, exclude, 'exclude')
    layers = {name: module for name, module in layers.items() if name not in dropped}
    if not layers:
        raise ValueError(
            'no layer is left to regularise: the model has no trainable convolution with several '
            'filters per group, or exclude drops all of them'
        )
    return layers


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
