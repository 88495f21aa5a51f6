"""Are there images of every class?"""

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmext.datasets.labels import labels_of
from mmext.registry import HOOKS


@HOOKS.register_module()
class LabelHistogramHook(Hook):
    """Count the labels of the training data before the first iteration.

    A class without images, or labels of a wrong folder, end in collapse long after the start.

    Args:
        num_classes: Expected classes; None: those of the model, or of the dataset where the model
            has none.

    Raises:
        ValueError: A label is outside of 0..num_classes-1, or a class has no image; in
            ``before_train``.

    Example:
        >>> custom_hooks = [dict(type='mmext.LabelHistogramHook')]
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes

    def before_train(self, runner) -> None:
        """Count."""
        model = getattr(runner.model, 'module', runner.model)
        dataset = runner.train_loop.dataloader.dataset
        names = dataset.metainfo.get('classes') or ()
        classes = self.num_classes or getattr(model, 'num_classes', 0) or len(names)
        if classes:
            check_histogram(labels_of(dataset), classes, names)


def check_histogram(labels: np.ndarray, num_classes: int, names=()) -> None:
    """Log how many images the classes have.

    Raises:
        ValueError: See :class:`LabelHistogramHook`.
    """
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(
            f'{outside.size} training labels are outside of 0..{num_classes - 1}, such as '
            f'{outside[0]}: num_classes of the model or the folder of the data is wrong'
        )
    counts = np.bincount(labels, minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        shown = ', '.join(names[i] if i < len(names) else str(i) for i in empty[:10])
        raise ValueError(
            f'{empty.size} of {num_classes} classes have no training image ({shown}'
            f'{", ..." if empty.size > 10 else ""}): complete the data or lower num_classes'
        )
    print_log(
        f'training data: {labels.size} images of {num_classes} classes, {counts.min()} to '
        f'{counts.max()} per class',
        logger='current',
    )
