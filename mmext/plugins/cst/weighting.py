"""Weights of single boxes in the training of MMDetection's detectors.

MMDetection has no weight per box: a ground-truth box counts or it does not. :func:`weigh_boxes`
makes a built detector read an optional field ``weights`` (shape (num_boxes,), >= 0) of
``gt_instances``, by one mechanism for all heads:

1. The assigner assigns the boxes of positive weight alone. What it would give to a box of weight 0
   and gave to no other is left out (``-1``): such a box is an ignore region, neither object nor
   background, and counts in no average.
2. Each prediction of the head that a loss is computed on (of a prior, a proposal, a query) has the
   weight of the box it was assigned to, 1 if none. On the way back its gradient is multiplied by
   it. Where every loss is a sum over predictions, as in nearly all heads, this is the gradient of
   the sum whose terms are multiplied by the weights, whatever the terms are. The average factor is
   the head's own, and the losses that are logged are without weights.

:func:`check_weighting` tries a detector and refuses one for which this does not hold. Without the
field ``weights`` losses and gradients are MMDetection's own, bit for bit.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models.dense_heads import (
    CenterNetHead,
    DETRHead,
    DINOHead,
    EmbeddingRPNHead,
    FCOSHead,
)
from mmdet.models.dense_heads.anchor_head import anchor_inside_flags
from mmdet.models.roi_heads.bbox_heads import DIIHead
from mmdet.models.task_modules.assigners import BaseAssigner
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.engine.rng import isolated

#: Dense heads with two assignments: which of them each output of the head follows.
_FOLLOWS = {'DDODHead': (0, 1, 1), 'RepPointsHead': (1, 0, 1)}
#: What the names of outputs have in them that are about the box and not about its class.
_OF_THE_BOX = ('bbox', 'centerness', 'iou', 'offset', 'pts', 'wh_')


class WeightedAssigner:
    """Mixin of an assigner: boxes of weight 0 are ignore regions; notes what it assigned."""

    #: Of each call the boxes and the number of the box of each prior: from 1, 0 none, -1 left out.
    #: None for RoI heads, whose samples know it.
    notes: list[tuple[InstanceData, Tensor]] | None = None
    #: Whether the head wants each prior to be positive or negative; its weights leave it out.
    keeps_all = False

    def assign(self, *args, **kwargs):
        """As the assigner."""
        own = super().assign  # type: ignore[misc]
        call = inspect.signature(own).bind(*args, **kwargs)
        gt_instances = call.arguments['gt_instances']
        if 'weights' not in gt_instances:
            return own(*args, **kwargs)

        def assigned(boxes: InstanceData):
            call.arguments['gt_instances'] = boxes
            return own(*call.args, **call.kwargs)

        counted = gt_instances.weights > 0
        result = assigned(gt_instances[counted])
        box = result.gt_inds.clone()
        positive = box > 0
        box[positive] = counted.nonzero().squeeze(1)[box[positive] - 1] + 1
        if not counted.all():
            box[(box == 0) & (assigned(gt_instances[~counted]).gt_inds > 0)] = -1
        if self.notes is not None:
            self.notes.append((gt_instances, box))
        result.box = box
        result.gt_inds = box.clamp(min=0) if self.keeps_all else box.clone()
        return result


class WeightedSampler:
    """Mixin of a RoI sampler: its samples know their boxes."""

    def sample(self, assign_result, pred_instances, gt_instances, *args, **kwargs):
        """As the sampler, with the boxes of positive weight as ``gt_instances`` on the result."""
        if 'weights' in gt_instances:
            # Some samplers add the boxes to the proposals: ignore regions are none of them.
            counted = gt_instances.weights > 0
            for box in (assign_result.gt_inds, assign_result.box):
                box[box > 0] = counted.cumsum(0)[box[box > 0] - 1]
            gt_instances = gt_instances[counted]
        result = super().sample(  # type: ignore[misc]
            assign_result, pred_instances, gt_instances, *args, **kwargs
        )
        # Some samplers answer with weights of the negatives beside the samples.
        samples = result[0] if isinstance(result, tuple) else result
        samples.gt_instances, samples.box = gt_instances, getattr(assign_result, 'box', None)
        return result


class _Weighted:
    """What the mixins of heads share."""

    #: Set by :func:`check_weighting`: gradients of predictions and whether these have a box.
    trace: list[tuple[Tensor, Tensor]] | None = None

    def _weigh(self, output: Tensor, boxes: Callable[[], tuple[Tensor, Tensor]], of: str) -> Tensor:
        """``output`` whose gradient is multiplied by weights that exist once the loss does.

        Args:
            output: A part of the head's predictions.
            boxes: Gives the weights of classes and of boxes, shape (2, ...), and flags of what has
                a box; both expand to the output's shape.
            of: Its name in MMDetection, which tells whether it is about the class or the box.
        """
        if not output.requires_grad:
            return output
        output = output.view_as(output)
        part = 1 if any(word in of for word in _OF_THE_BOX) else 0

        def multiply(grad: Tensor) -> Tensor:
            weights, positive = boxes()
            weighted = grad * weights[part].to(grad.dtype)
            if self.trace is not None:
                self.trace.append((weighted, positive.expand_as(grad)))
            return weighted

        output.register_hook(multiply)
        return output

    def _weights(self, boxes: list[InstanceData], box: Tensor) -> Tensor:
        """Weights (2, N, n) of classes and of boxes for the number (N, n) of each one's box."""
        return torch.stack(
            [_table(own)[:, index] for own, index in zip(boxes, box, strict=True)], 1
        )


class WeightedDenseHead(_Weighted):
    """Mixin of a dense head with assigners; predictions are maps of shape (N, A * k, H, W)."""

    def loss_by_feat(self, *args, **kwargs):
        """As the head."""
        own = super().loss_by_feat  # type: ignore[misc]
        first = next(i for i, arg in enumerate(args) if _are_boxes(arg))
        outputs, boxes, metas = args[:first], args[first], args[first + 1]
        if not has_weights(boxes):
            return own(*args, **kwargs)
        maps = _first_maps(outputs)
        found: list[list[tuple[Tensor, Tensor]]] = []

        def weighed(output: int, name: str):
            def boxes_of(level: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
                weights, positive = found[self._follows(output, len(found))][level]
                return _as_map(weights, shape), _as_map(positive, shape)

            return map_levels(
                outputs[output],
                lambda part, level: self._weigh(part, lambda: boxes_of(level, part.shape), name),
            )

        names = _argument_names(self, 'loss_by_feat')
        for assigner in _assigners(self):
            assigner.notes.clear()
        losses = own(
            *[weighed(index, names[index]) for index in range(first)],
            self._counted(boxes), *args[first + 1 :], **kwargs,
        )  # fmt: skip
        each = self._priors(maps)
        for box in self._boxes(boxes, metas, maps):
            weights = self._weights(boxes, box).split(each, dim=-1)
            found.append(list(zip(weights, (box > 0).split(each, dim=-1), strict=True)))
        return losses

    def _counted(self, boxes: list[InstanceData]) -> list[InstanceData]:
        return boxes

    def _follows(self, output: int, assignments: int) -> int:
        if assignments == 1:
            return 0
        if not assignments:
            raise TypeError('its head assigns boxes in a way that mmext does not know')
        name = next((c.__name__ for c in type(self).__mro__ if c.__name__ in _FOLLOWS), None)
        if name is None:
            raise TypeError(f'{assignments} assignments in a step: which losses follow which?')
        return _FOLLOWS[name][output]

    def _boxes(self, boxes, metas, maps) -> list[Tensor]:
        """Number of the box of each prior, (N, priors), in each assignment."""
        priors, found = sum(self._priors(maps)), []
        for assigner in (a for a in _assigners(self) if a.notes):
            box = torch.zeros((len(boxes), priors), dtype=torch.long, device=maps[0].device)
            for image, own in enumerate(boxes):
                # Some heads do not ask for an image without boxes.
                for note in [index for asked, index in assigner.notes if asked is own][-1:]:
                    where = slice(None) if len(note) == priors else self._inside(maps, metas, image)
                    box[image, where] = note
            found.append(box)
        return found

    def _inside(self, maps: list[Tensor], metas: list[dict], image: int) -> Tensor:
        """Flags of the priors that lie in the image, which alone are assigned."""
        sizes, device = [m.shape[-2:] for m in maps], maps[0].device
        if hasattr(self, 'get_points'):
            return torch.cat(self.get_points(sizes, metas, device)[1][image])
        anchors, valid = self.get_anchors(sizes, metas, device=device)  # type: ignore
        border = self.train_cfg['allowed_border']  # type: ignore[attr-defined]
        return anchor_inside_flags(
            torch.cat(anchors[image]),
            torch.cat(valid[image]),
            metas[image]['img_shape'][:2],
            border,
        )

    def _priors(self, maps: list[Tensor]) -> list[int]:
        """Number of priors of each level."""
        generator = getattr(self, 'prior_generator', None)
        each = generator.num_base_priors if generator is not None else [1] * len(maps)
        return [m.shape[-2] * m.shape[-1] * a for m, a in zip(maps, each, strict=True)]


class WeightedFCOSHead(WeightedDenseHead):
    """Mixin of FCOSHead, which assigns without an assigner."""

    def _counted(self, boxes):
        return [own[own.weights > 0] for own in boxes]

    def _boxes(self, boxes, metas, maps):
        points = self.prior_generator.grid_priors(  # type: ignore[attr-defined]
            [m.shape[-2:] for m in maps], dtype=torch.float32, device=maps[0].device
        )

        def assigned(flags: list[Tensor]) -> Tensor:
            """Asked with the number of a box, past the background, in the place of its label."""
            numbered = [
                InstanceData(bboxes=own.bboxes, labels=torch.arange(len(own), device=flag.device)
                             + self.num_classes + 1)[flag]  # type: ignore[attr-defined]
                for own, flag in zip(boxes, flags, strict=True)
            ]  # fmt: skip
            levels = self.get_targets(points, numbered)[0]  # type: ignore[attr-defined]
            label = torch.cat([level.reshape(len(boxes), -1) for level in levels], dim=1)
            return label - self.num_classes  # type: ignore[attr-defined]

        counted = [own.weights > 0 for own in boxes]
        box = assigned(counted)
        if not all(flags.all() for flags in counted):
            box[(box == 0) & (assigned([~flags for flags in counted]) > 0)] = -1
        return [box]


class WeightedCenterNetHead(WeightedFCOSHead):
    """Mixin of CenterNetHead, whose positives are the pixels under the centres of boxes.

    Of the pixels under a box of weight 0 those count that are the centre of another.
    """

    def _priors(self, maps):
        return [m.shape[-2] * m.shape[-1] for m in maps]

    def _boxes(self, boxes, metas, maps):
        height, width = maps[0].shape[-2:]
        full = metas[0]['batch_input_shape']
        scale = maps[0].new_tensor([width / full[1], height / full[0]] * 2)
        box = torch.zeros((len(boxes), height, width), dtype=torch.long, device=maps[0].device)
        for image, own in enumerate(boxes):
            scaled = own.bboxes.float() * scale
            for x1, y1, x2, y2 in scaled[own.weights == 0].int().tolist():
                box[image, y1 : y2 + 1, x1 : x2 + 1] = -1
            kept = (own.weights > 0).nonzero().squeeze(1)
            x, y = ((scaled[kept, :2] + scaled[kept, 2:]) / 2).long().unbind(1)
            box[image, y, x] = kept + 1
        return [box.flatten(1)]


class WeightedDETRHead(_Weighted):
    """Mixin of a head on queries; predictions have the shape (N, queries, k)."""

    def loss_by_feat_single(self, cls_scores, bbox_preds, batch_gt_instances, *args, **kwargs):
        """As the head."""
        own = super().loss_by_feat_single  # type: ignore[misc]
        if not has_weights(batch_gt_instances):
            return own(cls_scores, bbox_preds, batch_gt_instances, *args, **kwargs)
        (assigner,) = _assigners(self)
        assigner.notes.clear()
        found: list[Tensor] = []
        outputs = self._weigh_queries(cls_scores, bbox_preds, batch_gt_instances, found)
        losses = own(*outputs, batch_gt_instances, *args, **kwargs)
        found.append(torch.stack([box for _, box in assigner.notes]))
        return losses

    def _weigh_queries(self, cls_scores, bbox_preds, boxes, found: list[Tensor]):
        def of_queries():
            (box,) = found
            return self._weights(boxes, box)[..., None], (box > 0)[..., None]

        return (
            self._weigh(cls_scores, of_queries, 'cls_scores'),
            self._weigh(bbox_preds, of_queries, 'bbox_preds'),
        )


class WeightedDINOHead(WeightedDETRHead):
    """Mixin of DINOHead, which learns from boxes with noise as well."""

    def _loss_dn_single(
        self, dn_cls_scores, dn_bbox_preds, batch_gt_instances, batch_img_metas, dn_meta
    ):
        """As the head."""
        outputs = dn_cls_scores, dn_bbox_preds
        if has_weights(batch_gt_instances):
            batch_gt_instances = [own[own.weights > 0] for own in batch_gt_instances]
            # In each group the boxes and as many for background, both padded to one length.
            groups, queries = dn_meta['num_denoising_groups'], dn_meta['num_denoising_queries']
            size = (len(batch_gt_instances), groups, 2, queries // groups // 2)
            box = torch.zeros(size, dtype=torch.long, device=dn_cls_scores.device)
            for image, own in enumerate(batch_gt_instances):
                box[image, :, :, : len(own)] = torch.arange(1, len(own) + 1, device=box.device)
            outputs = self._weigh_queries(*outputs, batch_gt_instances, [box.flatten(1)])
        return super()._loss_dn_single(  # type: ignore[misc]
            *outputs, batch_gt_instances, batch_img_metas, dn_meta
        )


class WeightedQueryGenerator:
    """Mixin of what makes DINO's queries of boxes with noise: of ignore regions there are none."""

    def __call__(self, batch_data_samples):
        """As the generator."""
        counted = []
        for sample in batch_data_samples:
            if 'weights' in sample.gt_instances:
                boxes, sample = sample.gt_instances, sample.new()
                sample.gt_instances = boxes[boxes.weights > 0]
            counted.append(sample)
        return super().__call__(counted)  # type: ignore[misc]


class WeightedBBoxHead(_Weighted):
    """Mixin of the box head of a RoI head; predictions have a row for each proposal."""

    def loss_and_target(self, cls_score, bbox_pred, *args, **kwargs):
        """As the head."""
        own = super().loss_and_target  # type: ignore[misc]
        samples = kwargs.get('sampling_results') or next(a for a in args if _are_samples(a))
        if not has_weights([sample.gt_instances for sample in samples]):
            return own(cls_score, bbox_pred, *args, **kwargs)
        box = [self._box_of(sample) for sample in samples]
        tables = [_table(sample.gt_instances) for sample in samples]
        weights = torch.cat([t[:, index] for t, index in zip(tables, box, strict=True)], dim=1)
        positive = torch.cat(box) > 0

        def weighed(output: Any, name: str) -> Any:
            return map_levels(
                output,
                lambda part, _: self._weigh(
                    part, lambda: (_per_row(weights, part), _per_row(positive, part)), name
                ),
            )

        return own(
            weighed(cls_score, 'cls_score'), weighed(bbox_pred, 'bbox_pred'), *args, **kwargs
        )

    def _box_of(self, sample) -> Tensor:
        if isinstance(self, DIIHead):  # Queries keep their order.
            return sample.box
        # Other samples are the positive ones, then the rest.
        rest = sample.neg_inds.new_zeros(len(sample.neg_inds))
        return torch.cat([sample.pos_assigned_gt_inds + 1, rest])


class MasklessRoIHead:
    """Mixin of a RoI head with masks: boxes without masks teach it none (ours)."""

    def mask_loss(self, *args, **kwargs):
        """As the head; 0 where the boxes have no masks."""
        boxes = next(a for a in (*args, *kwargs.values()) if _are_boxes(a))
        if all('masks' in own for own in boxes):
            return super().mask_loss(*args, **kwargs)  # type: ignore[misc]
        heads = self.mask_head  # type: ignore[attr-defined]
        # Keep the graph: under DDP every parameter takes part in every step.
        nothing = sum(parameter.sum() * 0 for parameter in heads.parameters())
        return dict(loss_mask=dict(loss_mask=nothing))


_MIXINS = {
    DINOHead: WeightedDINOHead,
    DETRHead: WeightedDETRHead,
    FCOSHead: WeightedFCOSHead,
    CenterNetHead: WeightedCenterNetHead,
}


def has_weights(boxes: list[InstanceData]) -> bool:
    """Whether the boxes of a batch carry weights."""
    return any('weights' in own for own in boxes)


def num_classes(detector: nn.Module) -> int:
    """Number of classes of a built detector."""
    heads = getattr(detector, 'roi_head', detector)
    return _several(heads.bbox_head)[0].num_classes


def weigh_boxes(detector: nn.Module, check: bool = True) -> None:
    """Make a detector honour the weights of ``gt_instances``, in place.

    ``weights`` (num_boxes,), >= 0, weigh the class of each box, and its regression too unless
    there are ``box_weights`` (num_boxes,). With ``weights`` of 0 a box is an ignore region.

    Args:
        detector: A built MMDetection detector.
        check: Try it (:func:`check_weighting`), which takes a second or two; not needed for the
            twin of one that was tried.

    Raises:
        TypeError: Its losses cannot be weighted per box; says why.
    """
    roi_head = getattr(detector, 'roi_head', None)
    dense = getattr(detector, 'rpn_head' if roi_head is not None else 'bbox_head', None)
    if roi_head is not None:
        _weigh_roi_head(roi_head)
    if dense is not None and not isinstance(dense, EmbeddingRPNHead):  # That one learns nothing.
        _weigh_head(dense)
    elif roi_head is None:
        raise TypeError(f'{type(detector).__name__} has no head of boxes')
    if hasattr(detector, 'dn_query_generator'):
        _become(detector.dn_query_generator, WeightedQueryGenerator)
    for module in detector.modules():
        for part in vars(module).values():
            for assigner in _several(part):
                if isinstance(assigner, BaseAssigner) and not isinstance(
                    assigner, WeightedAssigner
                ):
                    raise TypeError(
                        f'{type(module).__name__} assigns boxes in a way that mmext does not know'
                    )
    if check:
        check_weighting(detector)


def _weigh_head(head: nn.Module) -> None:
    for assigner in vars(head).values():
        if isinstance(assigner, BaseAssigner):
            _become(assigner, WeightedAssigner)
            assigner.notes = []
    mixin = next((m for base, m in _MIXINS.items() if isinstance(head, base)), None)
    if mixin is None or isinstance(head, FCOSHead) and not _assigns_as_fcos(head):
        mixin = WeightedDenseHead if _assigners(head) else None
    if mixin is None:
        raise TypeError(f'{type(head).__name__} assigns boxes in a way that mmext does not know')
    _become(head, mixin)


def _assigns_as_fcos(head: nn.Module) -> bool:
    return type(head).get_targets is FCOSHead.get_targets


def _weigh_roi_head(roi_head: nn.Module) -> None:
    heads = _several(roi_head.bbox_head)
    for assigner in _several(roi_head.bbox_assigner):
        _become(assigner, WeightedAssigner)
        assigner.keeps_all = isinstance(heads[0], DIIHead)
    for sampler in _several(roi_head.bbox_sampler):
        _become(sampler, WeightedSampler)
    for head in heads:
        _become(head, WeightedBBoxHead)
    if roi_head.with_mask:
        _become(roi_head, MasklessRoIHead)


def check_weighting(detector: nn.Module, size: int = 320) -> None:
    """Try whether the weights of boxes reach the losses of a detector.

    Differentiates the loss of a copy on one image of noise with three boxes. The gradients of some
    predictions must be those of positives alone, the regression of boxes, and lie exactly where
    the weights of boxes are: then these know the assignment, and no term of a loss depends on the
    predictions of other boxes. A second or two.

    Args:
        detector: After :func:`weigh_boxes`.
        size: Sides of the image (px).

    Raises:
        TypeError: What is wrong.
    """
    gradients = box_gradients(detector, [_trial(size)])
    for head, traces in gradients.items():
        # A part may have no gradient yet: some losses are weighted by the quality of predictions.
        if not any(box.any() and len(of_boxes(grad, box)) for grad, box in traces):
            raise TypeError(
                f'the losses of {head} on a box reach predictions that were not assigned to it: '
                'they take no weight per box'
            )


def box_gradients(
    detector: nn.Module, samples: list[DetDataSample]
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Differentiate the loss of a copy of a detector on images of noise.

    Args:
        detector: After :func:`weigh_boxes`.
        samples: Boxes with weights.

    Returns:
        For each head the gradients of its predictions, as weighted, with flags of those that have
        a box.

    Raises:
        TypeError: The loss cannot be computed; says why.
    """
    tried = copy.deepcopy(detector).float().train()
    for module in tried.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    heads = [module for module in tried.modules() if isinstance(module, _Weighted)]
    for head in heads:
        head.trace = []
    with isolated(0), _first_epoch():
        try:
            device = next(tried.parameters()).device
            images = torch.randn(len(samples), 3, *samples[0].img_shape).to(device)
            total, _ = tried.parse_losses(tried.loss(images, [s.to(device) for s in samples]))
            total.backward()
        except Exception as error:
            what = f'{type(error).__name__}: {error}'
            raise TypeError(
                f'{type(detector).__name__} fails with weights of boxes, {what}'
            ) from error
    return {
        f'{index} {type(head).__name__}'.removeprefix('0 '): head.trace or []
        for index, head in enumerate(heads)
    }


@contextmanager
def _first_epoch() -> Iterator[None]:
    """For heads that ask MMEngine for the epoch, since they begin with another assigner."""
    info = MessageHub.get_current_instance().runtime_info
    missing = info.get('epoch') is None
    if missing:
        info['epoch'] = 0
    try:
        yield
    finally:
        if missing:
            info.pop('epoch')


def of_boxes(grad: Tensor, box: Tensor) -> Tensor:
    """Gradients of those channels that move what has a box alone: of the regression of boxes.

    Args:
        grad, box: A part of the result of :func:`box_gradients`.

    Returns:
        Shape (channels, values), of these channels.
    """
    axis = 1 if grad.dim() == 4 else -1
    grad, box = (part.movedim(axis, 0).flatten(1) for part in (grad, box))
    return grad[((grad == 0) | box).all(dim=1)]


def _trial(size: int) -> DetDataSample:
    boxes = torch.tensor([[4, 6, 40, 44], [70, 8, 120, 56], [30, 66, 92, 122.0]]) * (size / 128)
    return trial_sample(boxes, torch.tensor([1.0, 0.5, 0.25]), size)


def trial_sample(boxes: Tensor, weights: Tensor, size: int) -> DetDataSample:
    """A square image with boxes (n, 4) of the first class and their weights (n,)."""
    shape = (size, size)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape,
            scale_factor=(1.0, 1.0),
        )
    )  # fmt: skip
    labels = torch.zeros(len(boxes), dtype=torch.long)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, weights=weights)
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    return sample


def _become(instance: Any, mixin: type) -> None:
    """Put ``mixin`` before the class of ``instance``, once."""
    own = type(instance)
    if not isinstance(instance, mixin):
        instance.__class__ = type(f'Weighted{own.__name__}', (mixin, own), {})


def _assigners(head: Any) -> list[Any]:
    found = [value for value in vars(head).values() if isinstance(value, WeightedAssigner)]
    return list({id(assigner): assigner for assigner in found}.values())


def _several(parts: Any) -> list:
    return list(parts) if isinstance(parts, list | tuple | nn.ModuleList) else [parts]


def _are_boxes(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and isinstance(value[0], InstanceData)


def _are_samples(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and hasattr(value[0], 'pos_inds')


def _table(own: InstanceData) -> Tensor:
    """Weights (2, boxes + 2) of classes and boxes: of no box, of each box, of what is left out."""
    weights = own.weights.float()
    both = torch.stack([weights, own.get('box_weights', weights).float()])
    return torch.cat([both.new_ones(2, 1), both, both.new_zeros(2, 1)], dim=1)


def map_levels(value: Any, function: Callable[[Tensor, int], Any], level: int | None = None) -> Any:
    """Apply a function to the tensors of nested lists and to their place in the outer one."""
    if isinstance(value, Tensor):
        return function(value, level or 0)
    return [
        map_levels(part, function, index if level is None else level)
        for index, part in enumerate(value)
    ]


def _argument_names(head: Any, method: str) -> list[str]:
    """Names of the arguments of a method of MMDetection's, under our mixins."""
    host = next(c for c in type(head).__mro__ if method in vars(c)
                and not c.__module__.startswith('mmext.'))  # fmt: skip
    return list(inspect.signature(vars(host)[method]).parameters)[1:]


def _first_maps(outputs: Any) -> list[Tensor]:
    """A map of each level."""
    levels = list(outputs[0])
    while not isinstance(levels[0], Tensor):
        levels = [level[0] for level in levels]
    return levels


def _as_map(rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows (..., N, H * W * A) in the order of a map (..., N, A * k, H, W)."""
    images, channels, height, width = shape
    rows = rows.reshape(*rows.shape[:-2], images, height, width, -1).movedim(-1, -3)
    return rows.repeat_interleave(channels // rows.shape[-3], dim=-3)


def _per_row(rows: Tensor, output: Tensor) -> Tensor:
    """Rows (..., R) beside an output whose first axis has a multiple of R rows."""
    each = len(output) // max(rows.shape[-1], 1)
    return rows.repeat_interleave(each, dim=-1).reshape(
        *rows.shape[:-1], -1, *[1] * (output.dim() - 1)
    )
