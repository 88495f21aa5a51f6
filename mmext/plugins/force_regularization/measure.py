"""What layers cost: MACs from one traced forward, latency from timed runs."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .pair import swap

Forward = Callable[[nn.Module], Any]
Replacement = Mapping[nn.Module, nn.Module]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear)


class Call(NamedTuple):
    """One use of a layer: shapes of its input and output."""

    input: tuple[int, ...]
    output: tuple[int, ...]


def forward_of(inputs: Tensor | Forward) -> Forward:
    """``inputs`` as a function of the model that runs one forward."""
    return inputs if callable(inputs) else lambda model: model(inputs)


@torch.no_grad()
def trace(model: nn.Module, forward: Forward) -> dict[nn.Module, list[Call]]:
    """Every use of a convolution or linear layer in one forward in evaluation mode."""
    calls: dict[nn.Module, list[Call]] = {}
    handles = []

    def note(module, args, output) -> None:
        use = Call(tuple(args[0].shape), tuple(output.shape))
        calls.setdefault(module, []).append(use)

    with evaluating(model):
        try:
            for module in model.modules():
                if isinstance(module, _COUNTED):
                    handles.append(module.register_forward_hook(note))
            forward(model)
        finally:
            for handle in handles:
                handle.remove()
    return calls


class evaluating:  # noqa: N801 (used like torch.no_grad)
    """Evaluation mode inside the block; every module gets its own mode back."""

    def __init__(self, model: nn.Module) -> None:
        self.modes = {module: module.training for module in model.modules()}
        self.model = model

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *error) -> None:
        for module, mode in self.modes.items():
            module.training = mode


def macs(module: nn.Module, calls: Iterable[Call]) -> int:
    """Multiply-accumulates of a convolution or linear layer per image in these uses."""
    total = 0
    for call in calls:
        side = call.input if isinstance(module, _TRANSPOSED) else call.output
        positions = torch.Size(side).numel() // side[0]
        positions //= side[-1] if isinstance(module, nn.Linear) else side[1]
        total += positions * module.weight.numel()
    return total


def macs_per_rank(conv: nn.Conv2d, calls: Iterable[Call], spatial: bool) -> int:
    """MACs that one more component (one per group) of the pair costs per image."""
    count, channels, height, width = conv.weight.shape
    total = 0
    for call in calls:
        (rows, columns), columns_before = call.output[-2:], call.input[-1]
        if spatial:
            total += conv.groups * channels * height * rows * columns_before
            total += count * width * rows * columns
        else:
            total += (conv.groups * channels * height * width + count) * rows * columns
    return total


def model_ms(
    model: nn.Module, forward: Forward, forms: Sequence[Replacement], rounds: int
) -> list[float]:
    """Shortest time of one forward for each form of the model, in milliseconds.

    The forms take turns, after two warm-ups; the model is left as it was. Other programs on the
    machine only ever add time, so the shortest repeats best.

    Args:
        model: Timed in evaluation mode.
        forward: Runs one forward.
        forms: Each says which module stands in for which.
        rounds: Timed runs of each, >= 1.
    """
    return [times[model] for times in _times(model, forward, forms, rounds, by_layer=False)]


def layer_ms(
    model: nn.Module, forward: Forward, forms: Sequence[Replacement], rounds: int
) -> list[dict[nn.Module, float]]:
    """As :func:`model_ms`, for every replaced layer by itself; ``model`` is what remains.

    The layers run in their place, on what reaches them there: by itself, a layer would find its
    weights in the cache. All uses in one forward count together.
    """
    return _times(model, forward, forms, rounds, by_layer=True)


def _times(
    model: nn.Module, forward: Forward, forms: Sequence[Replacement], rounds: int, by_layer: bool
) -> list[dict[nn.Module, float]]:
    best: list[dict[nn.Module, float]] = [{} for _ in forms]
    clock = _Clock()
    with torch.no_grad(), evaluating(model):
        for turn in range(rounds + 2):
            for form, shortest in zip(forms, best, strict=True):
                swap(model, form)
                watched = {new: old for old, new in form.items()} if by_layer else {}
                handles = [handle for new in watched for handle in clock.watch(new)]
                try:
                    began = clock.now()
                    forward(model)
                    took = clock.now() - began
                    clock.spent[model] = took - sum(clock.spent.values())
                finally:
                    for handle in handles:
                        handle.remove()
                    swap(model, {new: old for old, new in form.items()})
                spent, clock.spent = clock.spent, {}
                if turn >= 2:
                    for module, ms in spent.items():
                        key = watched.get(module, module)
                        shortest[key] = min(ms, shortest.get(key, ms))
    return best


class _Clock:
    """Adds up the time that modules spend in their forward."""

    def __init__(self) -> None:
        self.spent: dict[nn.Module, float] = {}
        self._began = 0.0

    def now(self) -> float:
        """Milliseconds."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return 1000 * time.perf_counter()

    def watch(self, module: nn.Module) -> tuple[Any, Any]:
        """Hooks on a module; watched modules do not contain each other."""
        return (
            module.register_forward_pre_hook(self._start),
            module.register_forward_hook(self._stop),
        )

    def _start(self, module, args) -> None:
        self._began = self.now()

    def _stop(self, module, args, output) -> None:
        self.spent[module] = self.spent.get(module, 0) + self.now() - self._began
