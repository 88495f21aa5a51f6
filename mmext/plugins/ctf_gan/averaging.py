"""Moving average of a generator."""

import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn


class GeneratorAverage(ExponentialMovingAverage):
    """MMEngine's average that also averages the statistics of batch norm.

    MMEngine copies them from the last generator, whose features are not those of the averaged one.

    Args:
        model: The generator.
        momentum: Share of the newest weights in the average, in (0, 1).
        interval: Updates of the generator between two of the average.
        start_iter: Updates during which the average is a copy (mmagic's key).

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self, model: nn.Module, momentum: float = 0.001, interval: int = 1, start_iter: int = 0
    ) -> None:
        if not 0 < momentum < 1:
            raise ValueError(
                f'ema.momentum={momentum} must be in (0, 1): the share of the newest weights'
            )
        if interval < 1 or start_iter < 0:
            raise ValueError(
                f'ema.interval={interval} must be at least 1, ema.start_iter={start_iter} at '
                'least 0'
            )
        super().__init__(model, momentum=momentum, interval=interval)
        self.start_iter = start_iter

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights and the statistics of ``model`` in."""
        step = int(self.steps)
        copies = step == 0 or step < self.start_iter
        old = [buffer.clone() for buffer in self.module.buffers()]
        super().update_parameters(model)
        if copies:
            for average, source in zip(self.module.parameters(), model.parameters(), strict=True):
                average.copy_(source)
            return
        moves = step % self.interval == 0
        for buffer, before in zip(self.module.buffers(), old, strict=True):
            if buffer.is_floating_point():
                buffer.copy_(before.lerp(buffer, self.momentum) if moves else before)
