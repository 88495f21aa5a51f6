"""Let weights of single boxes reach the losses of MMDetection's heads.

MMDetection has no per-box weight: a ground-truth box counts or it does not. :func:`weigh_boxes`
turns the heads of a built detector into subclasses of their own classes that read an optional field
``weights`` (shape (num_boxes,), >= 0) of ``gt_instances``. The weight of a box multiplies the
classification and regression terms of every prior, point or proposal assigned to it. The average
factor stays what it is without weights, so a weight below 1 really lowers the loss, and a box of
weight 0 is an ignore region: neither object nor background. Without the field the losses are
MMDetection's own, bit for bit.

Served: FCOSHead, AnchorHead (RetinaNet and RPN included) and the bbox head of StandardRoIHead.
"""

import torch
from mmdet.models.dense_heads import AnchorHead, FCOSHead
from mmdet.models.dense_heads.anchor_head import anchor_inside_flags
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules.samplers import BaseSampler
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

SERVED = 'FCOS, RetinaNet and other plain AnchorHead detectors, Faster R-CNN'


def box_weights(gt_instances: InstanceData) -> Tensor:
    """Weights of the boxes, shape (num_boxes,); 1 where none are given."""
    if 'weights' in gt_instances:
        return gt_instances.weights
    return gt_instances.bboxes.new_ones(len(gt_instances))


def has_weights(batch_gt_instances: list[InstanceData]) -> bool:
    """Whether any image of the batch carries weights."""
    return any('weights' in gt_instances for gt_instances in batch_gt_instances)


class WeightedFCOSHead(FCOSHead):
    """FCOSHead whose points take the weight of their box."""

    def loss_by_feat(
        self,
        cls_scores,
        bbox_preds,
        centernesses,
        batch_gt_instances,
        batch_img_metas,
        batch_gt_instances_ignore=None,
    ):
        """As FCOSHead, with every positive point weighted by its box."""
        if not has_weights(batch_gt_instances):
            return super().loss_by_feat(
                cls_scores,
                bbox_preds,
                centernesses,
                batch_gt_instances,
                batch_img_metas,
                batch_gt_instances_ignore,
            )
        points = self.prior_generator.grid_priors(
            [score.shape[-2:] for score in cls_scores],
            dtype=bbox_preds[0].dtype,
            device=bbox_preds[0].device,
        )
        labels, bbox_targets, weights = self._weighted_targets(points, batch_gt_instances)

        def flatten(maps, channels):
            return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps])

        scores = flatten(cls_scores, self.cls_out_channels)
        deltas = flatten(bbox_preds, 4)
        centerness = flatten(centernesses, 1).squeeze(1)
        points = torch.cat([level.repeat(len(batch_img_metas), 1) for level in points])

        positive = labels < self.num_classes
        num_pos = max(reduce_mean(positive.sum().float()), 1.0)
        loss_cls = self.loss_cls(scores, labels, weights, avg_factor=num_pos)
        deltas, points = deltas[positive], points[positive]
        bbox_targets, weights = bbox_targets[positive], weights[positive]
        centerness = centerness[positive]
        centerness_targets = self.centerness_target(bbox_targets)
        # A collective: every rank takes part, with or without a box of its own.
        denominator = max(reduce_mean(centerness_targets.sum()), 1e-6)
        if not positive.any():
            return dict(loss_cls=loss_cls, loss_bbox=deltas.sum(), loss_centerness=centerness.sum())
        loss_bbox = self.loss_bbox(
            self.bbox_coder.decode(points, deltas),
            self.bbox_coder.decode(points, bbox_targets),
            weight=centerness_targets * weights,
            avg_factor=denominator,
        )
        loss_centerness = self.loss_centerness(
            centerness, centerness_targets, weights, avg_factor=num_pos
        )
        return dict(loss_cls=loss_cls, loss_bbox=loss_bbox, loss_centerness=loss_centerness)

    def _weighted_targets(self, points, batch_gt_instances):
        """Labels (P,), box targets (P, 4) and weights (P,) of all points of all images.

        FCOS keeps the box of a point to itself. Asking it for targets with the box's index in place
        of the label (moved past the background label) tells which box each point has.
        """
        shift = self.num_classes + 1
        numbered = []
        first = 0
        for gt_instances in batch_gt_instances:
            count = len(gt_instances)
            index = torch.arange(first, first + count, device=gt_instances.labels.device)
            numbered.append(InstanceData(bboxes=gt_instances.bboxes, labels=index + shift))
            first += count
        levels, bbox_targets = self.get_targets(points, numbered)
        index = torch.cat(levels)
        foreground = index != self.num_classes
        labels = torch.full_like(index, self.num_classes)
        weights = bbox_targets[0].new_ones(len(index))
        if first:
            box = index[foreground] - shift
            labels[foreground] = torch.cat([gt.labels for gt in batch_gt_instances])[box]
            every = torch.cat([box_weights(gt) for gt in batch_gt_instances])
            weights[foreground] = every.to(weights.dtype)[box]
        return labels, torch.cat(bbox_targets), weights


class WeightedAnchorHead(AnchorHead):
    """AnchorHead whose anchors take the weight of their box."""

    def _get_targets_single(
        self,
        flat_anchors,
        valid_flags,
        gt_instances,
        img_meta,
        gt_instances_ignore=None,
        unmap_outputs=True,
    ):
        """As AnchorHead, with the weights of positive anchors multiplied by their box's."""
        targets = super()._get_targets_single(
            flat_anchors, valid_flags, gt_instances, img_meta, gt_instances_ignore, unmap_outputs
        )
        if 'weights' not in gt_instances:
            return targets
        _, label_weights, _, bbox_weights, pos_inds, _, sampled = targets
        # pos_inds counts the anchors inside the image only.
        where = pos_inds
        if unmap_outputs:
            inside = anchor_inside_flags(
                flat_anchors,
                valid_flags,
                img_meta['img_shape'][:2],
                self.train_cfg['allowed_border'],
            )
            where = inside.nonzero().squeeze(1)[pos_inds]
        weights = gt_instances.weights[sampled.pos_assigned_gt_inds].to(label_weights.dtype)
        label_weights[where] *= weights
        bbox_weights[where] *= weights[:, None]
        return targets


class WeightedSampler(BaseSampler):
    """RoI sampler that notes the weight of each positive proposal's box."""

    def sample(self, assign_result, pred_instances, gt_instances, **kwargs):
        """As the sampler, with ``pos_gt_weights`` (num_pos,) on the result."""
        result = super().sample(assign_result, pred_instances, gt_instances, **kwargs)
        if 'weights' in gt_instances:
            result.pos_gt_weights = gt_instances.weights[result.pos_assigned_gt_inds]
        return result


class WeightedBBoxHead(BBoxHead):
    """BBoxHead whose proposals take the weight of their box."""

    def get_targets(self, sampling_results, rcnn_train_cfg, concat=True):
        """As BBoxHead, with the weights of positive proposals multiplied by their box's."""
        labels, label_weights, bbox_targets, bbox_weights = super().get_targets(
            sampling_results, rcnn_train_cfg, concat=False
        )
        for result, for_label, for_box in zip(
            sampling_results, label_weights, bbox_weights, strict=True
        ):
            if hasattr(result, 'pos_gt_weights'):
                # Positives come first.
                weights = result.pos_gt_weights.to(for_label.dtype)
                for_label[: len(weights)] *= weights
                for_box[: len(weights)] *= weights[:, None]
        targets = (labels, label_weights, bbox_targets, bbox_weights)
        return tuple(torch.cat(part) for part in targets) if concat else targets


def weigh_boxes(detector: nn.Module) -> None:
    """Make the heads of a detector honour ``gt_instances.weights``, in place.

    Args:
        detector: A built single-stage or two-stage MMDetection detector.

    Raises:
        TypeError: A head whose losses cannot be weighted per box; names it and the mend.
    """
    roi_head = getattr(detector, 'roi_head', None)
    dense = getattr(detector, 'rpn_head' if roi_head is not None else 'bbox_head', None)
    if isinstance(dense, FCOSHead) and _inherits(dense, FCOSHead, 'loss_by_feat', 'get_targets'):
        _become(dense, WeightedFCOSHead)
    elif isinstance(dense, AnchorHead) and _inherits(
        dense, AnchorHead, '_get_targets_single', 'get_targets', 'loss_by_feat_single'
    ):
        _become(dense, WeightedAnchorHead)
    elif not (dense is None and roi_head is not None):
        raise _refusal(dense if dense is not None else detector)
    if roi_head is None:
        return
    bbox_head = getattr(roi_head, 'bbox_head', None)
    sampler = getattr(roi_head, 'bbox_sampler', None)
    if not (
        isinstance(roi_head, StandardRoIHead)
        and isinstance(bbox_head, BBoxHead)
        and isinstance(sampler, BaseSampler)
        and _inherits(roi_head, StandardRoIHead, 'loss', 'bbox_loss')
        and _inherits(bbox_head, BBoxHead, 'get_targets', 'loss')
    ):
        raise _refusal(roi_head)
    _become(sampler, WeightedSampler)
    _become(bbox_head, WeightedBBoxHead)


def _inherits(instance: object, base: type, *methods: str) -> bool:
    """Whether the methods are still the base's: an override may not read the weights."""
    return all(getattr(type(instance), name) is getattr(base, name) for name in methods)


def _become(instance: object, weighted: type) -> None:
    own = type(instance)
    if not issubclass(own, weighted):
        instance.__class__ = type(f'Weighted{own.__name__}', (weighted, own), {})


def _refusal(head: object) -> TypeError:
    return TypeError(
        f'{type(head).__name__} cannot take a weight per box (served: {SERVED}). '
        "Set consistency=dict(type='mmext.DistributionConsistency', kind='none') and "
        'semi_train_cfg.ignore_score_thr=None to train it without reweighting.'
    )
