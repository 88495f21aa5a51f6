"""Checkpoints with the error feedback of all ranks."""

from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from mmext.registry import HOOKS


@HOOKS.register_module()
class ErrorFeedbackHook(Hook):
    """Save what every rank left out of its gradients (``error_feedback=True``).

    MMEngine writes a checkpoint on rank 0 alone, which knows its own errors only. All ranks ask for
    a checkpoint, though, and this hook has them send theirs to rank 0 first. The checkpoint grows
    by 4 bytes for an element and rank.

    Example:
        >>> custom_hooks = [dict(type='mmext.ErrorFeedbackHook')]
        >>> optim_wrapper = dict(
        ...     type='mmext.TernGradOptimWrapper', error_feedback=True,
        ...     optimizer=dict(type='Adam', lr=1e-3))
    """

    def before_train(self, runner: Runner) -> None:
        """Have the runner gather errors whenever it saves."""
        save = type(runner).save_checkpoint
        wrappers = [w for w in _wrappers(runner.optim_wrapper) if hasattr(w, 'gathered_errors')]
        for wrapper in wrappers:
            wrapper.saves_errors()

        def save_checkpoint(*args: Any, **kwargs: Any) -> None:
            with ExitStack() as stack:
                for wrapper in wrappers:
                    stack.enter_context(wrapper.gathered_errors())
                save(runner, *args, **kwargs)

        runner.save_checkpoint = save_checkpoint

    def after_train(self, runner: Runner) -> None:
        """Give the runner its own method back."""
        runner.__dict__.pop('save_checkpoint', None)


def collect_errors(errors: dict[int, Tensor]) -> list[dict[int, Tensor]] | None:
    """Errors of all ranks, by layer, on rank 0; None on the others. Every rank calls it."""
    found = []
    for rank in range(get_world_size()):
        # One at a time: rank 0 holds no more of them twice than it must.
        if rank == 0:
            found.append(dict(errors))
        elif get_rank() == 0:
            found.append(_receive(rank, errors))
        elif get_rank() == rank:
            _send(errors)
    return found if get_rank() == 0 else None


def _wrappers(wrapper: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _send(errors: dict[int, Tensor]) -> None:
    for _, error in sorted(errors.items()):
        dist.send(error, 0)


def _receive(rank: int, like: dict[int, Tensor]) -> dict[int, Tensor]:
    # All ranks exchange the same layers.
    found = {}
    for layer, error in sorted(like.items()):
        found[layer] = torch.empty_like(error)
        dist.recv(found[layer], rank)
    return found
