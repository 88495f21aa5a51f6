"""Ground-truth boxes that do not grow when their image is rotated or sheared."""

import torch
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes
from torch import Tensor

from mmext.datasets.box_views import project_boxes
from mmext.registry import TRANSFORMS


class EllipseBoxes(HorizontalBoxes):
    """Horizontal boxes that move as the ellipses in them, see :func:`project_boxes`."""

    def project_(self, homography_matrix) -> None:
        """Move to another view, in place.

        Args:
            homography_matrix: ``(3, 3)``, tensor or array.
        """
        boxes: Tensor = self.tensor  # type: ignore[has-type]
        self.tensor = project_boxes(boxes, torch.as_tensor(homography_matrix))


@TRANSFORMS.register_module()
class ToEllipseBoxes(BaseTransform):
    """Let ``gt_bboxes`` follow later rotations and shears as the ellipses inscribed in them.

    MMDetection's Rotate, ShearX and ShearY take the box around the transformed corners, which is
    larger than most objects: by a tenth to a third in area at the usual angles. A detector learns
    boxes that are too large, and a test without rotation counts it. For objects that fill the
    corners of their boxes (signs, screens) leave it out. Cost: none. Ours.

    Required key: ``gt_bboxes``, :class:`~mmdet.structures.bbox.HorizontalBoxes`; changed to
    :class:`EllipseBoxes`, which every transform takes for horizontal boxes.

    Example:
        >>> pipeline = [dict(type='LoadAnnotations', with_bbox=True),
        ...             dict(type='mmext.ToEllipseBoxes'), dict(type='Rotate')]
    """

    def transform(self, results: dict) -> dict:
        """Change the type of the boxes."""
        results['gt_bboxes'] = EllipseBoxes(results['gt_bboxes'].tensor, clone=False)
        return results
