"""A picture of the training beside its checkpoints."""

import os

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmext.engine.curves import plot_curves, read_scalars
from mmext.registry import HOOKS


@HOOKS.register_module()
class CurvesHook(Hook):
    """Write the curves of loss, learning rate and metrics to the work dir after the training.

    Reads what LoggerHook and LocalVisBackend (on by default) wrote. A fresh run shows itself only;
    a resumed one all runs of the work dir, as its beginning is in an earlier one. A picture that
    cannot be drawn is logged as an error and does not fail the training.

    Args:
        filename (str): Image name in the work dir; the suffix decides the format.

    Example:
        >>> custom_hooks = [dict(type='mmext.CurvesHook')]
    """

    # After LoggerHook and others that still add scalars.
    priority = 'LOWEST'

    def __init__(self, filename: str = 'curves.png') -> None:
        self.filename = filename

    def after_train(self, runner) -> None:
        """Draw on rank 0."""
        if runner.rank != 0:
            return
        path = os.path.join(runner.work_dir, self.filename)
        source = runner.work_dir if runner._resume else runner.log_dir
        try:
            plot_curves(read_scalars(source), path)
        except Exception as error:
            print_log(f'no curves in {path}: {error!r}', logger='current', level=40)
        else:
            print_log(f'curves of the training: {path}', logger='current')
