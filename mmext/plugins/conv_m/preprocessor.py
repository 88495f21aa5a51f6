"""Batches in which some samples have no label."""

from mmpretrain.models.utils.data_preprocessor import ClsDataPreprocessor

from mmext.registry import MODELS

from .drop_label import NO_LABEL


@MODELS.register_module()
class TwoDomainPreprocessor(ClsDataPreprocessor):
    """MMPretrain's preprocessor for batches of labelled and unlabelled samples.

    The parent looks for a label in the first sample and then reads those of all; here a sample
    without one has the label -1 in training. It is the default of
    ``mmext.DomainAdaptationClassifier``. Arguments are the parent's.

    Raises:
        ValueError: Batch augments or one-hot labels are asked for: they mix source and target.

    Example:
        >>> data_preprocessor = dict(type='mmext.TwoDomainPreprocessor', mean=[127.5], std=[64.0])
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        refuse_mixing(self)

    def forward(self, data: dict, training: bool = False) -> dict:
        """As the parent; see the class."""
        if training:
            for sample in data['data_samples']:
                if 'gt_label' not in sample:
                    sample.set_gt_label(NO_LABEL)
        return super().forward(data, training)


def refuse_mixing(preprocessor) -> None:
    """Raise ValueError if a preprocessor makes labels one-hot or augments batches."""
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is not None or getattr(preprocessor, 'to_onehot', False):
        raise ValueError(
            'data_preprocessor: batch_augments and to_onehot cannot be used for domain adaptation: '
            'target images have no labels; remove them (and train_cfg)'
        )
