"""Target images without labels."""

from mmcv.transforms import BaseTransform

from mmext.registry import TRANSFORMS

#: Label of a sample that has none.
NO_LABEL = -1


@TRANSFORMS.register_module()
class DropLabel(BaseTransform):
    """Replace the label of a sample by -1, first of all in the pipeline of the target.

    It makes a sample one of the target for ``mmext.DomainAdaptationClassifier``, and no later step
    can see the label. Samples that have no label get -1 as well.

    Example:
        >>> pipeline = [dict(type='mmext.DropLabel'), dict(type='PackInputs')]
    """

    def transform(self, results: dict) -> dict:
        """Set ``gt_label`` to -1 and drop ``gt_score``."""
        results.pop('gt_score', None)
        results['gt_label'] = NO_LABEL
        return results

    def __repr__(self) -> str:
        return 'DropLabel()'
