"""Training loop that resumes at once and at the right sample."""

from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import BatchSampler

from mmext.registry import LOOPS


@LOOPS.register_module()
class ResumableIterTrainLoop(IterBasedTrainLoop):
    """MMEngine's iteration loop that skips consumed samples without loading them.

    The parent feeds every past batch through the pipeline again (hours for a long training). With
    a sampler that has ``skip(num_samples)``, such as ``mmext.MultiSourceSampler``, this loop moves
    the sampler by iterations x batch size instead; without one, or with a batch sampler that
    groups samples by itself, it does what the parent does. Arguments are the parent's.

    Raises:
        ValueError: The sampler composes its batches for another ``batch_size`` than the
            dataloader's, so that they would not have its samples of each source.

    Example:
        >>> train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=90000)
    """

    def __init__(self, runner, dataloader, *args, **kwargs) -> None:
        super().__init__(runner, dataloader, *args, **kwargs)
        # Both count the samples of one rank. Next to a batch sampler of the config, the sampler is
        # torch's own, which has no batch_size.
        composed = getattr(self.dataloader.sampler, 'batch_size', None)
        if composed is not None and composed != self.dataloader.batch_size:
            raise ValueError(
                f'train_dataloader.batch_size={self.dataloader.batch_size} and '
                f'train_dataloader.sampler.batch_size={composed} must be equal: set both keys, '
                'e.g. with --cfg-options'
            )

    def run(self):
        """Train and return the model."""
        sampler = self._skippable_sampler()
        if self._iter == 0 or sampler is None:
            return super().run()

        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        num_samples = self._iter * self.dataloader.batch_size
        sampler.skip(num_samples)
        # Worker processes may have fetched batches from the stream's beginning already.
        self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
        print_log(
            f'Continue at iteration {self._iter}: skipped {num_samples} samples per rank',
            logger='current',
        )
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._should_validate():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _should_validate(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin:
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters

    def _skippable_sampler(self):
        loader = self.dataloader
        # Another batch sampler may take more or fewer samples than batch_size per batch.
        if type(loader.batch_sampler) is not BatchSampler:
            return None
        return loader.sampler if hasattr(loader.sampler, 'skip') else None
