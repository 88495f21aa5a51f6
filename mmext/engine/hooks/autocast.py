"""Mixed precision in bfloat16, on a CPU as well."""

import platform
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, ApexOptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmext.engine import phases
from mmext.registry import HOOKS

_NAME = 'autocast'


@HOOKS.register_module()
class AutocastHook(Hook):
    """Train in bfloat16 autocast with whatever optim wrapper the run has.

    MMEngine's AmpOptimWrapper refuses a CPU; this hook runs every ``optim_context`` under
    ``torch.autocast`` on the device of the model. Weights, gradients, optimizer and checkpoint stay
    float32, so runs with and without the hook resume each other. bfloat16 has the range of float32
    and needs no loss scaling. float16 does, so it is not offered: that is AmpOptimWrapper's.

    Evaluation stays in float32, and with it every reported metric. On a CPU torch computes
    cross-entropy, regression losses and ``kl_div`` in float32, but softmax and log-softmax in
    bfloat16, unlike on a GPU.

    It pays on processors with bfloat16 instructions (AVX512-BF16, AMX); without them a step takes
    1.5 to 2 times as long as in float32, which is logged as a warning.

    On a CPU, depthwise convolutions that are strided or larger than 3x3 train in float32: oneDNN
    is 1.3 to 3 times slower at their gradients in bfloat16. The others keep bfloat16.

    Works with accumulation, DDP and FSDP2 (gloo, NCCL), the members of an OptimWrapperDict and
    every plugin. Gain on a CPU: ``projects/engine/cpu_speed.py``; it is largest together with
    ``mmext.ChannelsLastHook``.

    Raises:
        ValueError: (``before_train``) An optim wrapper has mixed precision of its own.

    Ours; no paper has it.

    Example:
        >>> custom_hooks = [dict(type='mmext.AutocastHook'), dict(type='mmext.ChannelsLastHook')]
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._layers: list[nn.Conv2d] = []

    def before_train(self, runner: Runner) -> None:
        """Attach to every optim wrapper."""
        members = phases.members(runner.optim_wrapper)
        for wrapper in members.values():
            if isinstance(wrapper, AmpOptimWrapper | ApexOptimWrapper):
                raise ValueError(
                    f'mmext.AutocastHook and {type(wrapper).__name__} both set the precision of '
                    'the training; drop the hook, or take the optim wrapper without Amp'
                )
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for wrapper in members.values():
            phases.attach(wrapper).register('around_forward', _autocast, _NAME, shards=True)
        if _device_of(model) == 'cpu':
            self._layers = [module for module in model.modules() if _slow_in_bfloat16(module)]
            if not _has_instructions():
                print_log(
                    'this processor has no bfloat16 instructions, so mmext.AutocastHook makes the '
                    'training slower: drop the hook (or --amp)',
                    logger='current',
                    level=30,
                )
        for layer in self._layers:
            # Not forward, which mmcv's ConvModule replaces and deletes where it folds a batch norm.
            layer._conv_forward = partial(_convolve, layer._conv_forward)

    def after_train(self, runner: Runner) -> None:
        """Detach."""
        for wrapper in phases.members(runner.optim_wrapper).values():
            phases.attach(wrapper).unregister(_NAME)
        for layer in self._layers:
            del layer._conv_forward
        self._layers = []


def _autocast(model: nn.Module) -> AbstractContextManager[Any]:
    # A weight that is first used under no_grad would be cached without its gradient by some torch
    # releases, and casting it anew for each use costs nothing that can be measured.
    return torch.autocast(_device_of(model), torch.bfloat16, cache_enabled=False)


def _device_of(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def _has_instructions() -> bool:
    # Older torch does not tell, and the name is that of x86 alone.
    ask = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
    return ask is None or platform.machine() not in ('x86_64', 'AMD64') or ask()


def _slow_in_bfloat16(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels > 1
        and (max(module.stride) > 1 or max(module.kernel_size) > 3)
    )


def _convolve(convolve: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    differentiated = inputs.requires_grad or weight.requires_grad
    if not (torch.is_autocast_enabled('cpu') and torch.is_grad_enabled() and differentiated):
        # Without gradients bfloat16 is the faster one.
        return convolve(inputs, weight, bias)
    with torch.autocast('cpu', enabled=False):
        outputs = convolve(inputs.float(), weight, bias)
    return outputs.to(torch.get_autocast_dtype('cpu'))
