"""Checkpoints that load with ``weights_only=True``."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.engine.plain import from_plain, to_plain
from mmext.registry import HOOKS

_PARTS = ('message_hub', 'meta', 'param_schedulers')


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Write checkpoints of tensors, numbers, strings, lists and dicts alone.

    MMEngine pickles the history of every logged scalar as an object, so its checkpoints load only
    where code in a checkpoint may run. This hook writes the same as tensors and puts the objects
    back on resume: what is restored does not change. Without the hook MMEngine resumes such a
    checkpoint too and only leaves out the history of the log, with a warning.

    What other hooks and the model put into a checkpoint is theirs: it must be plain itself.

    Example:
        >>> custom_hooks = [dict(type='mmext.PlainCheckpointHook')]
        >>> torch.load('work_dirs/run/iter_1000.pth', weights_only=True)
    """

    # After the hooks that add to a checkpoint.
    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the objects."""
        checkpoint.update({key: to_plain(checkpoint[key]) for key in _PARTS if key in checkpoint})
        if 'param_schedulers' in checkpoint:
            checkpoint['param_schedulers'] = _without_functions(checkpoint['param_schedulers'])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put them back."""
        checkpoint.update({key: from_plain(checkpoint[key]) for key in _PARTS if key in checkpoint})


def _without_functions(states: Any) -> Any:
    """States of schedulers without their functions, such as the shape of OneCycleLR.

    A scheduler has its functions from the config and keeps those that its state does not name.
    """
    if isinstance(states, dict):
        return {key: _without_functions(v) for key, v in states.items() if not callable(v)}
    if isinstance(states, list):
        return [_without_functions(state) for state in states]
    return states
