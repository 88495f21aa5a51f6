"""Activations in the memory layout that convolutions of modern processors are fastest with."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.hooks import RemovableHandle

from mmext.registry import HOOKS

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Hand ``torch.channels_last`` activations to every 2-D convolution, also in evaluation.

    A convolution writes the layout that it reads, so only what enters the first one is copied.
    Shapes and values do not change; sums are taken in another order, so that results agree with
    the usual layout up to rounding.

    Weights keep their layout, unlike with PyTorch's usual recipe ``model.to(memory_format=...)``.
    It is as fast, because a training step rearranges the weights for the convolution anyway, and
    it keeps checkpoints, optimizer states and DDP out of it: the buckets of DDP are made with the
    model, and a weight whose strides change later gets a wrong gradient in the first iteration,
    with ``find_unused_parameters`` in all.

    Works with every optim wrapper, with DDP, EMA and every plugin; a network that calls ``view`` on
    feature maps needs ``flatten`` or ``reshape`` there, as torch then says. Use it beside
    ``mmext.AutocastHook``, or alone. Gain on a CPU: ``projects/engine/cpu_speed.py``.

    Ours; no paper has it.

    Example:
        >>> custom_hooks = [dict(type='mmext.ChannelsLastHook')]
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def before_run(self, runner: Runner) -> None:
        """Forget the model of an earlier run that ended with an error."""
        self.after_run(runner)

    def before_train(self, runner: Runner) -> None:
        """Hook into the convolutions."""
        self._install(runner.model)

    def before_val(self, runner: Runner) -> None:
        """Hook into the convolutions, unless the training has."""
        self._install(runner.model)

    def before_test(self, runner: Runner) -> None:
        """Hook into the convolutions."""
        self._install(runner.model)

    def after_run(self, runner: Runner) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _install(self, model: nn.Module) -> None:
        if not self._handles:
            self._handles = [
                module.register_forward_pre_hook(_to_channels_last)
                for module in model.modules()
                if isinstance(module, _CONVOLUTIONS)
            ]


def _to_channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = inputs
    # A single image (C, H, W) has no such layout.
    if first.dim() == 4:
        first = first.contiguous(memory_format=torch.channels_last)
    return first, *others
