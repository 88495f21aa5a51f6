"""Let weights of single boxes reach the losses of MMDetection's heads.

MMDetection has no per-box weight: a ground-truth box counts or it does not. :func:`weigh_boxes`
turns the heads of a built detector into subclasses of their own classes that read an optional field
``weights`` (shape (num_boxes,), >= 0) of ``gt_instances``. The weight of a box multiplies the
classification and regression terms of every prior, point or proposal assigned to it. The average
factor stays what it is without weights, so a weight below 1 really lowers the loss, and a box of
weight 0 is an ignore region: neither object nor background. In FCOS such a box takes no point from
the others and counts in no average. Without the field the losses are MMDetection's own, bit for
bit.

Served: FCOSHead, AnchorHead (RetinaNet and RPN included), ATSSHead and the bbox head of
StandardRoIHead, with those of their subclasses that compute their losses in the same way.
"""

import torch
from mmdet.models.dense_heads import AnchorHead, ATSSHead, FCOSHead, RPNHead
from mmdet.models.dense_heads.anchor_head import anchor_inside_flags
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules.samplers import BaseSampler
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

SERVED = 'FCOS, ATSS, RetinaNet and other plain AnchorHead detectors, Faster R-CNN'


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
        every = [box_weights(gt) for gt in batch_gt_instances]
        counted, ignored = [], []
        first = 0
        for gt_instances, weight in zip(batch_gt_instances, every, strict=True):
            index = torch.arange(first, first + len(weight), device=weight.device)
            boxes = InstanceData(bboxes=gt_instances.bboxes, labels=index + shift)
            counted.append(boxes[weight > 0])
            ignored.append(boxes[weight == 0])
            first += len(weight)
        levels, bbox_targets = self.get_targets(points, counted)
        index = torch.cat(levels)
        foreground = index != self.num_classes
        labels = torch.full_like(index, self.num_classes)
        weights = bbox_targets[0].new_ones(len(index))
        if any(map(len, ignored)):
            # A point that only an ignored box would have is no background either.
            weights[torch.cat(self.get_targets(points, ignored)[0]) != self.num_classes] = 0
        if first:
            box = index[foreground] - shift
            labels[foreground] = torch.cat([gt.labels for gt in batch_gt_instances])[box]
            weights[foreground] = torch.cat(every).to(weights.dtype)[box]
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
        if 'weights' in gt_instances:
            _, label_weights, _, bbox_weights, pos_inds, _, sampled = targets
            inside = None
            if unmap_outputs:
                inside = anchors_inside(self, flat_anchors, valid_flags, img_meta)
            weigh_anchors(gt_instances, sampled, pos_inds, inside, label_weights, bbox_weights)
        return targets


class WeightedATSSHead(ATSSHead):
    """ATSSHead whose anchors take the weight of their box."""

    def _get_targets_single(
        self,
        flat_anchors,
        valid_flags,
        num_level_anchors,
        gt_instances,
        img_meta,
        gt_instances_ignore=None,
        unmap_outputs=True,
    ):
        """As ATSSHead, with the weights of positive anchors multiplied by their box's."""
        targets = super()._get_targets_single(
            flat_anchors,
            valid_flags,
            num_level_anchors,
            gt_instances,
            img_meta,
            gt_instances_ignore,
            unmap_outputs,
        )
        if 'weights' in gt_instances:
            _, _, label_weights, _, bbox_weights, pos_inds, _, sampled = targets
            inside = None
            if unmap_outputs:
                inside = anchors_inside(self, flat_anchors, valid_flags, img_meta)
            weigh_anchors(gt_instances, sampled, pos_inds, inside, label_weights, bbox_weights)
        return targets

    def loss_by_feat_single(
        self,
        anchors,
        cls_score,
        bbox_pred,
        centerness,
        labels,
        label_weights,
        bbox_targets,
        avg_factor,
    ):
        """As ATSSHead, which leaves its box and centerness losses without weights."""
        scores = self._flatten(cls_score, self.cls_out_channels)
        deltas = self._flatten(bbox_pred, 4)
        centerness = self._flatten(centerness, 1).squeeze(1)
        labels, label_weights = labels.reshape(-1), label_weights.reshape(-1)
        loss_cls = self.loss_cls(scores, labels, label_weights, avg_factor=avg_factor)
        positive = ((labels >= 0) & (labels < self.num_classes)).nonzero().squeeze(1)
        if not len(positive):
            return loss_cls, deltas.sum() * 0, centerness.sum() * 0, bbox_targets.new_tensor(0.0)
        weights = label_weights[positive]
        if self.train_cfg['pos_weight'] > 0:
            weights = weights / self.train_cfg['pos_weight']
        anchors = anchors.reshape(-1, 4)[positive]
        bbox_targets = bbox_targets.reshape(-1, 4)[positive]
        centerness_targets = self.centerness_target(anchors, bbox_targets)
        loss_bbox = self.loss_bbox(
            self.bbox_coder.decode(anchors, deltas[positive]),
            bbox_targets,
            weight=centerness_targets * weights,
            avg_factor=1.0,
        )
        loss_centerness = self.loss_centerness(
            centerness[positive], centerness_targets, weights, avg_factor=avg_factor
        )
        return loss_cls, loss_bbox, loss_centerness, centerness_targets.sum()

    @staticmethod
    def _flatten(level: Tensor, channels: int) -> Tensor:
        return level.permute(0, 2, 3, 1).reshape(-1, channels)


def anchors_inside(head: AnchorHead, flat_anchors, valid_flags, img_meta: dict) -> Tensor:
    """Flags of the anchors that lie in the image, shape (num_anchors,)."""
    border = head.train_cfg['allowed_border']
    return anchor_inside_flags(flat_anchors, valid_flags, img_meta['img_shape'][:2], border)


def weigh_anchors(gt_instances, sampled, pos_inds, inside, label_weights, bbox_weights) -> None:
    """Multiply the weights of positive anchors by those of their boxes, in place.

    Args:
        gt_instances: Boxes with ``weights``.
        sampled: Sampling result of the image.
        pos_inds: Positive anchors, counted among those inside the image.
        inside: Flags of these among all anchors; None where the weights are of them only.
        label_weights, bbox_weights: Weights of the anchors, shapes (n,) and (n, 4).
    """
    where = pos_inds if inside is None else inside.nonzero().squeeze(1)[pos_inds]
    weights = gt_instances.weights[sampled.pos_assigned_gt_inds].to(label_weights.dtype)
    label_weights[where] *= weights
    bbox_weights[where] *= weights[:, None]


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


#: Weighted class -> its base, the methods that must still be the base's, and subclasses of the base
#: with loss methods of their own that keep to it. An override may not read the weights.
_DENSE: dict[type, tuple[type, tuple[str, ...], tuple[type, ...]]] = {
    WeightedFCOSHead: (
        FCOSHead,
        ('loss', 'loss_and_predict', 'loss_by_feat', 'get_targets', '_get_targets_single'),
        (),
    ),
    WeightedATSSHead: (
        ATSSHead,
        ('loss', 'loss_and_predict', 'loss_by_feat', 'loss_by_feat_single', 'get_targets',
         '_get_targets_single'),
        (),
    ),
    WeightedAnchorHead: (
        AnchorHead,
        ('loss', 'loss_and_predict', 'loss_by_feat', 'loss_by_feat_single', 'get_targets',
         '_get_targets_single'),
        (RPNHead,),
    ),
}  # fmt: skip


def weighted_class(head: type) -> type | None:
    """The weighted class that serves a dense head class; None if there is none."""
    for weighted, (base, methods, known) in _DENSE.items():
        if issubclass(head, base) and any(
            issubclass(head, own) and _inherits(head, own, *methods) for own in (base, *known)
        ):
            return weighted
    return None


def weigh_boxes(detector: nn.Module) -> None:
    """Make the heads of a detector honour ``gt_instances.weights``, in place.

    Args:
        detector: A built single-stage or two-stage MMDetection detector.

    Raises:
        TypeError: A head whose losses cannot be weighted per box; names it and the fix.
    """
    roi_head = getattr(detector, 'roi_head', None)
    dense = getattr(detector, 'rpn_head' if roi_head is not None else 'bbox_head', None)
    if dense is not None:
        weighted = weighted_class(type(dense))
        if weighted is None:
            raise _refusal(dense)
        _become(dense, weighted)
    elif roi_head is None:
        raise _refusal(detector)
    if roi_head is None:
        return
    bbox_head = getattr(roi_head, 'bbox_head', None)
    sampler = getattr(roi_head, 'bbox_sampler', None)
    if not (
        isinstance(roi_head, StandardRoIHead)
        and not roi_head.with_mask
        and isinstance(bbox_head, BBoxHead)
        and isinstance(sampler, BaseSampler)
        and _inherits(type(roi_head), StandardRoIHead, 'loss', 'bbox_loss')
        and _inherits(type(bbox_head), BBoxHead, 'loss_and_target', 'get_targets', 'loss')
    ):
        raise _refusal(roi_head)
    _become(sampler, WeightedSampler)
    _become(bbox_head, WeightedBBoxHead)


def _inherits(head: type, base: type, *methods: str) -> bool:
    """Whether the methods are still the base's: an override may not read the weights."""
    return all(getattr(head, name) is getattr(base, name) for name in methods)


def _become(instance: object, weighted: type) -> None:
    own = type(instance)
    instance.__class__ = type(f'Weighted{own.__name__}', (weighted, own), {})


def _refusal(head: object) -> TypeError:
    return TypeError(
        f'{type(head).__name__} cannot take a weight per box (served: {SERVED}). '
        "Set consistency=dict(type='mmext.DistributionConsistency', kind='none') and "
        'semi_train_cfg.ignore_score_thr=None to train it without reweighting.'
    )
