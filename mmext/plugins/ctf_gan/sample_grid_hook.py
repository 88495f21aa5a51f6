"""Pictures of what the generator makes."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmext.registry import HOOKS

from .pictures import chosen_rows, class_grid, write_png
from .sampling import SamplingGAN, check_sample_model


@HOOKS.register_module()
class SampleGridHook(Hook):
    """Write a PNG of samples during training, a row for each class.

    The noise stays the same from picture to picture, and is the same for all rows. Rank 0 draws;
    ``<work_dir>/<folder>/iter_<n>.png``, for each generator that ``sample_model`` names.

    Args:
        interval: Iterations between two pictures, >= 1; there is one after the last as well.
        columns: Samples per class, >= 1.
        classes: Labels of the rows; None: all, or ``max_rows`` spread evenly over more.
        max_rows: >= 1.
        sample_model: 'ema', 'orig' or 'ema/orig'.
        folder: Below the work dir.
        seed: Of the noise.

    Raises:
        ValueError: An argument is out of its range; classes, before the first iteration.

    Cost: sampling rows x columns images.

    Example:
        >>> custom_hooks = [dict(type='mmext.SampleGridHook', interval=1000)]
    """

    def __init__(
        self,
        interval: int = 1000,
        columns: int = 10,
        classes: Sequence[int] | None = None,
        max_rows: int = 10,
        sample_model: str = 'ema',
        folder: str = 'samples',
        seed: int = 0,
    ) -> None:
        for name, value in (('interval', interval), ('columns', columns), ('max_rows', max_rows)):
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1')
        check_sample_model(sample_model)
        self.interval = interval
        self.columns = columns
        self.classes = classes
        self.max_rows = max_rows
        self.sample_model = sample_model
        self.folder = folder
        self.seed = seed

    def before_train(self, runner) -> None:
        """Refuse other models and classes that the model has not."""
        model = getattr(runner.model, 'module', runner.model)
        if not isinstance(model, SamplingGAN):
            raise ValueError(f'SampleGridHook draws mmext.CTFGAN, not {type(model).__name__}')
        chosen_rows(model.num_classes, self.classes, self.max_rows)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Draw where it is time."""
        done = runner.iter + 1
        if runner.rank or (done % self.interval and done != runner.max_iters):
            return
        model = getattr(runner.model, 'module', runner.model)
        classes = chosen_rows(model.num_classes, self.classes, self.max_rows)
        for name in self.sample_model.split('/'):
            grid = class_grid(model, classes, self.columns, self.seed, name)
            suffix = '_orig' if name == 'orig' else ''
            path = Path(runner.work_dir) / self.folder / f'iter_{done}{suffix}.png'
            write_png(path, grid)
            print_log(f'samples: {path}', logger='current')
