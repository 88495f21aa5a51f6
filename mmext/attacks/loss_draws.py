"""Random draws in the loss of a model, which has no Runner to ask."""

import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub

from mmext.engine import rng


class LossDraws:
    """Generators that depend on (seed, rank, iteration, count of the losses in it) alone.

    Ranks differ, and a resumed run draws what the uninterrupted one would have drawn. Micro-batches
    of gradient accumulation are iterations of their own; without a Runner, only the count goes on.

    Args:
        plugin: Name of the consumer.
        size: How many generators a loss may ask for.

    Example:
        >>> draws = LossDraws('mine')
        >>> draws.begin()
        >>> noise = torch.randn(8, generator=draws.generator())
    """

    def __init__(self, plugin: str, size: int = 1) -> None:
        self._plugin, self._size = plugin, size
        self._seed = self._iteration = 0
        self._losses = -1

    def begin(self) -> None:
        """Begin a loss."""
        hub = MessageHub.get_current_instance()
        seed, iteration = (int(hub.get_info(name, 0) or 0) for name in ('seed', 'iter'))
        self._losses = self._losses + 1 if iteration == self._iteration else 0
        self._seed, self._iteration = seed, iteration

    def generator(self, index: int = 0, device: torch.device | str = 'cpu') -> torch.Generator:
        """Generator of this loss for one purpose, 0 <= ``index`` < ``size``; new at each call."""
        index += self._losses * self._size
        return rng.generator(self._seed, self._plugin, get_rank(), self._iteration, index, device)
