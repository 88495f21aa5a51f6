"""Baselines of the study: MMDetection's mean teacher with everything CST has but the cycle.

MMDetection's ``SemiBaseDetector`` and ``MeanTeacherHook`` do the work. Added is what would
otherwise tilt the comparison: a supervised burn-in, the ramp of the unsupervised loss and the
ignore band. Two mean teachers in one run have CST's cost, so their fused boxes show what fusing
gains by itself.
"""

import torch
from mmdet.models.detectors import SemiBaseDetector
from mmdet.models.utils import reweight_loss_dict
from mmdet.registry import HOOKS, MODELS
from mmengine.hooks import Hook
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.ops import nms

from mmext.plugins.cst.detector import CycleSelfTraining
from mmext.plugins.cst.functional import ema_update, ramp
from mmext.plugins.cst.weighting import WeightedFCOSHead, weigh_boxes


@MODELS.register_module()
class StudyMeanTeacher(SemiBaseDetector):
    """MMDetection's mean teacher; ``semi_train_cfg`` has CST's thresholds."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        weigh_boxes(self.student)
        self.unsup_scale = 1.0

    def loss(self, inputs: dict, samples: dict) -> dict:
        """Labels only during the burn-in."""
        if self.unsup_scale == 0:
            return self.loss_by_gt_instances(inputs['sup'], samples['sup'])
        return super().loss(inputs, samples)

    def loss_by_pseudo_instances(self, inputs, samples, info=None) -> dict:
        """Times the ramp."""
        losses = super().loss_by_pseudo_instances(inputs, samples, info)
        return reweight_loss_dict(losses, self.unsup_scale)

    @torch.no_grad()
    def get_pseudo_instances(self, inputs, samples):
        """One class per object; boxes from ``cls_pseudo_thr`` to ``score_thr`` are ignored."""
        samples, info = super().get_pseudo_instances(inputs, samples)
        cfg = self.semi_train_cfg
        for sample in samples:
            found = sample.gt_instances
            if cfg['agnostic_nms_iou'] is not None:
                found = found[nms(found.bboxes, found.scores, cfg['agnostic_nms_iou'])]
                sample.gt_instances = found
            found.weights = (found.scores ** cfg['score_power'] >= cfg['score_thr']).float()
        return samples, info


@MODELS.register_module()
class StudySoftTeacher(StudyMeanTeacher):
    """The part of Soft Teacher (arXiv 2106.09018) that a one-stage detector can have.

    A background point counts by the background score that the teacher gives it, renormalised over
    the batch. Its selection of boxes by the spread under jitter needs a second stage: left out.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        head = self.student.bbox_head
        head.__class__ = type('SoftFCOSHead', (SoftBackground, type(head)), {})
        head.background = None
        self.teacher.bbox_head.register_forward_hook(self._note)

    def _note(self, head, inputs, outputs) -> None:
        self._teacher_scores = [level.sigmoid().amax(dim=1, keepdim=True) for level in outputs[0]]

    def get_pseudo_instances(self, inputs, samples):
        """With the foreground score maps of the teacher and the weak view's homographies."""
        samples, info = super().get_pseudo_instances(inputs, samples)
        views = [torch.as_tensor(sample.homography_matrix).to(inputs) for sample in samples]
        return samples, dict(info, foreground=self._teacher_scores, views=views)

    def loss_by_pseudo_instances(self, inputs, samples, info=None) -> dict:
        """Background points of the strong view look up the teacher on the weak view."""
        moves = [
            weak @ torch.as_tensor(sample.homography_matrix).to(inputs).inverse()
            for weak, sample in zip(info['views'], samples, strict=True)
        ]
        self.student.bbox_head.background = (info['foreground'], moves)
        try:
            return super().loss_by_pseudo_instances(inputs, samples, info)
        finally:
            self.student.bbox_head.background = None


class SoftBackground(WeightedFCOSHead):
    """FCOS head whose background points are weighted by a teacher."""

    background: tuple[list[Tensor], list[Tensor]] | None

    def _boxes(self, boxes, metas, maps):
        self._points = self.prior_generator.grid_priors(
            [m.shape[-2:] for m in maps], dtype=torch.float32, device=maps[0].device
        )
        return super()._boxes(boxes, metas, maps)

    def _weights(self, boxes, box):
        weights = super()._weights(boxes, box)
        if self.background is not None:
            soft = background_weights(self._points, self.strides, *self.background)
            empty = box == 0
            scale = empty.sum() / soft[empty].sum().clamp_min(1e-6)
            weights[0] = torch.where(empty, soft * scale, weights[0])
        return weights


def background_weights(
    points: list[Tensor], strides: list, foreground: list[Tensor], moves: list[Tensor]
) -> Tensor:
    """``1 - s`` with the teacher's foreground score s where a student's point lies in its view.

    Args:
        points: Points (n, 2) of each level in the student's view, in pixels.
        strides: Stride of each level, in pixels.
        foreground: The teacher's scores (N, 1, H, W) of each level.
        moves: For each of the N images the homography from the student's view to the teacher's.

    Returns:
        Weights (N, points) of the levels one after another; 1 outside the teacher's view.
    """
    weights = []
    for image, move in enumerate(moves):
        row = []
        for level, stride, scores in zip(points, strides, foreground, strict=True):
            size = level.new_tensor([scores.shape[3], scores.shape[2]]) * stride
            there = torch.cat([level, level.new_ones(len(level), 1)], dim=1) @ move.T
            grid = there[:, :2] / there[:, 2:] / size * 2 - 1
            seen = grid_sample(scores[image][None], grid[None, None], align_corners=False)
            row.append(1 - seen.flatten())
        weights.append(torch.cat(row))
    return torch.stack(weights)


@MODELS.register_module()
class StudyTwoMeanTeachers(CycleSelfTraining):
    """Two mean teachers side by side: CST whose teachers write for their own students."""

    def pseudo_instances(self, inputs, data_samples):
        """Exchanged, which undoes the crossing."""
        pseudo, statistics = super().pseudo_instances(inputs, data_samples)
        return pseudo[::-1], statistics

    def _asked(self, images):
        return super()._asked(images)[::-1]


@HOOKS.register_module()
class StudyBurnInHook(Hook):
    """Burn-in, hand-over and ramp of ``CycleTeacherHook`` for a mean teacher."""

    def __init__(self, burn_in: int, ramp_up: int, handover: str) -> None:
        self.burn_in = burn_in
        self.ramp_up = ramp_up
        self.handover = handover

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Set the weight of the unsupervised loss; end the burn-in."""
        model = runner.model
        if runner.iter == self.burn_in and self.handover == 'copy':
            ema_update(model.teacher, model.student, 1.0)
        model.unsup_scale = ramp(runner.iter, self.burn_in, self.ramp_up)
