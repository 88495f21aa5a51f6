"""What a teacher says about an image batch: its boxes, and its opinion on anybody's boxes.

Reading both teachers at the place where one of them found a box costs no further forward pass of
the backbone: a dense head is read at the prior that made the box, a RoI head at the box itself.
"""

from typing import Any, Protocol

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .functional import cross_iou, odds_distribution


class TeacherView(Protocol):
    """A teacher's forward pass on one batch."""

    #: Detections of each image in the coordinates of the network's input.
    results: list[InstanceData]

    def places(self, boxes: list[Tensor]) -> list[Any]:
        """Where each of this teacher's own boxes (n, 4) of each image comes from."""

    def read(self, places: list[Any]) -> list[tuple[Tensor, Tensor]]:
        """Class distributions (n, C + 1) and regressed boxes (n, 4) at places of each image."""


class DenseView:
    """View of a single-stage detector with a dense head."""

    def __init__(self, detector: nn.Module, inputs: Tensor, data_samples: list, odds_power: float):
        head = detector.bbox_head
        outputs = head(detector.extract_feat(inputs))
        metas = [sample.metainfo for sample in data_samples]
        self.results = head.predict_by_feat(*outputs, batch_img_metas=metas, rescale=False)
        self.head, self.outputs, self.metas, self.odds_power = head, outputs, metas, odds_power
        self._decoded: dict[int, Tensor] = {}

    def places(self, boxes: list[Tensor]) -> list[Tensor]:
        """Index of the prior whose decoded box fits best: the one that made it."""
        return [
            cross_iou(found, self._boxes(image)).argmax(dim=1)
            if len(found)
            else torch.zeros(0, dtype=torch.long, device=found.device)
            for image, found in enumerate(boxes)
        ]

    def read(self, places: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """See :class:`TeacherView`."""
        answers = []
        for image, index in enumerate(places):
            scores = self._flat(self.outputs[0], image, self.head.cls_out_channels)[index].float()
            if self.head.use_sigmoid_cls:
                distribution = odds_distribution(scores.sigmoid(), self.odds_power)
            else:
                distribution = scores.softmax(dim=1)
            boxes = self._boxes(image)[index] if len(index) else scores.new_zeros((0, 4))
            answers.append((distribution, boxes))
        return answers

    @staticmethod
    def _flat(maps, image: int, channels: int) -> Tensor:
        return torch.cat([m[image].permute(1, 2, 0).reshape(-1, channels) for m in maps])

    def _boxes(self, image: int) -> Tensor:
        if image not in self._decoded:
            head, deltas = self.head, self.outputs[1]
            priors = head.prior_generator.grid_priors(
                [m.shape[-2:] for m in deltas], dtype=deltas[0].dtype, device=deltas[0].device
            )
            boxes = head.bbox_coder.decode(
                torch.cat([get_box_tensor(level) for level in priors]),
                self._flat(deltas, image, head.bbox_coder.encode_size),
                max_shape=self.metas[image]['img_shape'],
            )
            self._decoded[image] = get_box_tensor(boxes).float()
        return self._decoded[image]


class RoIView:
    """View of a two-stage detector with a StandardRoIHead."""

    def __init__(self, detector: nn.Module, inputs: Tensor, data_samples: list):
        self.roi_head = detector.roi_head
        self.features = detector.extract_feat(inputs)
        self.metas = [sample.metainfo for sample in data_samples]
        proposals = detector.rpn_head.predict(self.features, data_samples, rescale=False)
        self.results = self.roi_head.predict(self.features, proposals, data_samples, rescale=False)

    def places(self, boxes: list[Tensor]) -> list[Tensor]:
        """The boxes themselves."""
        return boxes

    def read(self, places: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """See :class:`TeacherView`; scores and boxes before non-maximum suppression."""
        regions = [InstanceData(bboxes=boxes) for boxes in places]
        outputs = self.roi_head.predict_bbox(
            self.features, self.metas, regions, rcnn_test_cfg=None, rescale=False
        )
        answers = []
        for boxes, output in zip(places, outputs, strict=True):
            classes = self.roi_head.bbox_head.num_classes + 1
            scores = output.scores.float().reshape(len(boxes), classes)
            regressed = get_box_tensor(output.bboxes).float()
            if regressed.shape[-1] != 4 and len(boxes):
                label = scores[:, :-1].argmax(dim=1)
                regressed = regressed.reshape(len(boxes), -1, 4)[torch.arange(len(boxes)), label]
            answers.append((scores, regressed.reshape(-1, 4)))
        return answers


class BoxesOnlyView:
    """View of any other detector: detections, no opinion on boxes."""

    def __init__(self, detector: nn.Module, inputs: Tensor, data_samples: list):
        predicted = detector.predict(inputs, data_samples, rescale=False)
        self.results = [sample.pred_instances for sample in predicted]


def view(
    detector: nn.Module, inputs: Tensor, data_samples: list, opinions: bool, odds_power: float
) -> Any:
    """Run a teacher on a batch.

    Args:
        detector: A teacher in eval mode.
        inputs: Images, shape (N, C, H, W).
        data_samples: Their N data samples.
        opinions: Whether class distributions on boxes will be asked for.
        odds_power: See :func:`~mmext.plugins.cst.functional.odds_distribution`.
    """
    if not opinions:
        return BoxesOnlyView(detector, inputs, data_samples)
    if hasattr(detector, 'roi_head'):
        return RoIView(detector, inputs, data_samples)
    return DenseView(detector, inputs, data_samples, odds_power)


def check_opinions(detector: nn.Module) -> None:
    """Refuse a detector whose class distributions on single boxes cannot be read.

    Raises:
        TypeError: Names the detector and the fix.
    """
    if isinstance(getattr(detector, 'roi_head', None), StandardRoIHead):
        return
    if not hasattr(detector, 'roi_head') and isinstance(
        getattr(detector, 'bbox_head', None), BaseDenseHead
    ):
        return
    raise TypeError(
        f'the class distribution of {type(detector).__name__} on a single box cannot be read; set '
        "consistency=dict(type='mmext.DistributionConsistency', kind='none')"
    )
