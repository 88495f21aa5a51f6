"""Training by epochs on batches that have no end."""

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from mmext.registry import HOOKS

from .two_domain import TwoDomainSampler


@HOOKS.register_module()
class TwoDomainLoopHook(Hook):
    """Refuse a loop by epochs with ``mmext.TwoDomainSampler``: its first epoch would never end.

    Raises:
        ValueError: In training, with the loop to set in its place.

    Example:
        >>> custom_hooks = [dict(type='mmext.TwoDomainLoopHook')]
    """

    def before_train(self, runner) -> None:
        """Look at loop and sampler."""
        loop = runner.train_loop
        endless = isinstance(loop.dataloader.sampler, TwoDomainSampler)
        if endless and isinstance(loop, EpochBasedTrainLoop):
            raise ValueError(
                f'train_cfg trains {loop.max_epochs} epochs, and mmext.TwoDomainSampler has no end '
                'that an epoch could have: train by iterations, '
                f"train_cfg=dict(type='mmext.ResumableIterTrainLoop', max_iters={loop.max_iters}) "
                'for as many images, with by_epoch=False in param_scheduler, log_processor and '
                'default_hooks.checkpoint'
            )
