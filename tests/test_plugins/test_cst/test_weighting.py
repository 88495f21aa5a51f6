"""Weights of single boxes in the losses, each against a plain float64 loop."""

import copy
import math

import pytest
import torch
from cst_detectors import FAMILIES, NUM_CLASSES, atss, build, faster_rcnn, fcos, retinanet, sample
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import nn

from mmext.plugins.cst.weighting import box_gradients, of_boxes, trial_sample, weigh_boxes

BOXES = [[4.0, 4, 36, 40], [20, 24, 62, 62], [40, 2, 62, 26]]
LABELS = [0, 2, 1]


def focal(logit, target, alpha=0.25, gamma=2.0):
    p = logit.sigmoid()
    if target:
        return -alpha * (1 - p) ** gamma * p.log()
    return -(1 - alpha) * p**gamma * (1 - p).log()


def iou_loss(a, b):
    """-log IoU, mmdet's IoULoss in its default mode."""
    b = [a[0].new_tensor(side) for side in b]
    w = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp(min=0)
    h = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp(min=0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return -(w * h / area).clamp(min=1e-6).log()


def assert_same_gradients(head, got, expected):
    """Of two sums of losses, for all parameters of a head."""
    parameters = [p for p in head.parameters() if p.requires_grad]
    first, second = (torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
                     for total in (got, expected))  # fmt: skip
    assert any(grad is not None and grad.any() for grad in first)
    for one, other in zip(first, second, strict=True):
        if one is None or other is None:
            assert (one is None or not one.any()) and (other is None or not other.any())
        else:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(one.abs().max()))


def total(losses):
    """Sum of all losses of a dict."""
    return sum(sum(part) if isinstance(part, list) else part
               for key, part in losses.items() if 'loss' in key)  # fmt: skip


@pytest.mark.parametrize('family', FAMILIES)
def test_without_weights_nothing_changes(family):
    plain = build(FAMILIES[family]())
    weighted = copy.deepcopy(plain)
    weigh_boxes(weighted)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    losses = []
    for model in (plain, weighted):
        torch.manual_seed(0)
        losses.append(model.loss(images, [sample(BOXES, LABELS), sample(BOXES[:1], LABELS[:1])]))
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        torch.testing.assert_close(losses[1][key], value, rtol=0, atol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_weight_one_equals_no_weight(family):
    model = build(FAMILIES[family]())
    weigh_boxes(model)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    losses = []
    for weights in (None, [1.0, 1.0, 1.0]):
        torch.manual_seed(0)
        losses.append(model.parse_losses(model.loss(images, [sample(BOXES, LABELS, weights)]))[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_no_boxes_and_all_boxes_ignored_keep_the_graph(family):
    model = build(FAMILIES[family]())
    weigh_boxes(model)
    images = torch.randn(2, 3, 64, 64)
    empty = sample(weights=[])
    ignored = sample(BOXES, LABELS, [0.0, 0.0, 0.0])
    for samples in ([empty, sample(weights=[])], [empty, ignored]):
        loss, _ = model.parse_losses(model.loss(images, samples))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def fcos_loop(head, scores, deltas, centerness, boxes, labels, weights):
    """FCOS loss of one image, point by point, in float64 (IoU loss, no norm_on_bbox).

    Boxes of weight 0 take no point from the others and count in no average.
    """
    cls = box = ctr = 0.0
    num_pos = 0
    denominator = 0.0
    for level, stride in enumerate(head.strides):
        low, high = head.regress_ranges[level]
        _, rows, columns = scores[level].shape
        for y in range(rows):
            for x in range(columns):
                px, py = (x + 0.5) * stride, (y + 0.5) * stride
                best, area, ignored = None, math.inf, False
                for index, (x1, y1, x2, y2) in enumerate(boxes):
                    sides = (px - x1, py - y1, x2 - px, y2 - py)
                    if min(sides) > 0 and low <= max(sides) <= high:
                        size = (x2 - x1) * (y2 - y1)
                        if weights[index] == 0:
                            ignored = True
                        elif size < area:
                            best, area = index, size
                weight = (0.0 if ignored else 1.0) if best is None else weights[best]
                for c in range(NUM_CLASSES):
                    hit = best is not None and labels[best] == c
                    cls += weight * focal(scores[level][c, y, x], hit)
                if best is None:
                    continue
                num_pos += 1
                x1, y1, x2, y2 = boxes[best]
                left, top, right, bottom = px - x1, py - y1, x2 - px, y2 - py
                target = math.sqrt(
                    min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
                )
                denominator += target
                d = deltas[level][:, y, x]
                found = (px - d[0], py - d[1], px + d[2], py + d[3])
                box += weight * target * iou_loss(found, boxes[best])
                p = centerness[level][0, y, x].sigmoid()
                ctr -= weight * (target * p.log() + (1 - target) * (1 - p).log())
    num_pos = max(num_pos, 1)
    return cls / num_pos, box / max(denominator, 1e-6), ctr / num_pos


@pytest.mark.parametrize('weights', [[0.3, 1.0, 0.7], [0.0, 0.5, 2.0]])
def test_fcos_against_a_float64_loop(weights):
    model = build(fcos()).double().eval()
    weigh_boxes(model)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    made = sample(BOXES, LABELS, weights)
    made.gt_instances.bboxes = made.gt_instances.bboxes.double()
    losses = model.loss(images, [made])
    outputs = model.bbox_head(model.extract_feat(images))
    expected = fcos_loop(
        model.bbox_head, *([level[0] for level in part] for part in outputs), BOXES, LABELS, weights
    )
    assert_same_gradients(model.bbox_head, total(losses), sum(expected))


def anchor_loop(assigned, logits, deltas, targets, labels, weights, sigmoid_focal):
    """Classification and L1 sums over anchors, one at a time."""
    cls = box = 0.0
    for a, index in enumerate(assigned):
        if index < 0:
            continue
        weight = 1.0 if index == 0 else weights[index - 1]
        for c in range(logits.shape[1]):
            hit = index > 0 and labels[index - 1] == c
            logit = logits[a, c]
            if sigmoid_focal:
                cls += weight * focal(logit, hit)
            else:
                p = logit.sigmoid()
                cls -= weight * (p.log() if hit else (1 - p).log())
        if index > 0:
            box += weight * (deltas[a] - targets[a]).abs().sum()
    return cls, box


@pytest.mark.parametrize('weights', [[0.3, 1.0, 0.7], [0.0, 0.5, 2.0]])
@pytest.mark.parametrize('family', ['retinanet', 'rpn'])
def test_anchor_heads_against_a_float64_loop(family, weights):
    cfg = retinanet() if family == 'retinanet' else faster_rcnn()
    if family == 'rpn':
        # Take every anchor, so that the loop needs no random sampling.
        cfg['train_cfg']['rpn']['sampler'].update(num=100000, pos_fraction=1.0)
    model = build(cfg).double().eval()
    weigh_boxes(model)
    head = model.bbox_head if family == 'retinanet' else model.rpn_head
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)).double()
    labels = LABELS if family == 'retinanet' else [0, 0, 0]
    made = sample(BOXES, labels, weights)
    made.gt_instances.bboxes = made.gt_instances.bboxes.double()
    features = model.extract_feat(images)
    losses = head.loss(features, [made])
    scores, deltas = head(features)

    anchors = torch.cat(
        head.prior_generator.grid_priors(
            [s.shape[-2:] for s in scores], dtype=torch.float64, device='cpu'
        )
    )
    assigned = head.assigner.assign(InstanceData(priors=anchors), made.gt_instances).gt_inds
    assert (assigned > 0).sum() >= 2
    matched = made.gt_instances.bboxes[(assigned - 1).clamp_min(0)]
    targets = head.bbox_coder.encode(anchors, matched)
    flat = torch.cat([s[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels) for s in scores])
    regressed = torch.cat([d[0].permute(1, 2, 0).reshape(-1, 4) for d in deltas])
    cls, box = anchor_loop(
        assigned.tolist(), flat, regressed, targets, labels, weights, family == 'retinanet'
    )
    positive = [weights[i - 1] for i in assigned.tolist() if i > 0]
    factor = len(positive)
    if family == 'rpn':
        factor += int((assigned == 0).sum())
    assert_same_gradients(head, total(losses), (cls + box) / factor)


@pytest.mark.parametrize('weights', [[0.3, 1.0, 0.7], [0.0, 0.5, 2.0]])
@pytest.mark.parametrize('pos_weight', [-1, 3.0])
def test_atss_against_a_float64_loop(weights, pos_weight):
    cfg = atss()
    cfg['train_cfg']['pos_weight'] = pos_weight
    # Anchors over the border do not count: the weights must follow the ones that do.
    cfg['train_cfg']['allowed_border'] = 8
    model = build(cfg).double().eval()
    weigh_boxes(model)
    head = model.bbox_head
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5)).double()
    # ATSSHead makes its anchors in float32; boxes and anchors are whole numbers.
    made = sample(BOXES, LABELS, weights)
    losses = model.loss(images, [made])
    levels = [
        [part[0].permute(1, 2, 0).reshape(-1, channels) for part in level]
        for level, channels in zip(
            head(model.extract_feat(images)), (NUM_CLASSES, 4, 1), strict=True
        )
    ]
    anchors = head.prior_generator.grid_priors([(4, 4), (2, 2)], dtype=torch.float64, device='cpu')
    inside = [((a[:, :2] >= -8) & (a[:, 2:] < 64 + 8)).all(dim=1) for a in anchors]
    counts = [int(flags.sum()) for flags in inside]
    assert 0 < sum(counts) < 20
    priors = torch.cat([a[flags] for a, flags in zip(anchors, inside, strict=True)])
    assigned = head.assigner.assign(
        InstanceData(priors=priors.float()), counts, made.gt_instances
    ).gt_inds.tolist()
    scores, deltas, centerness = (
        torch.cat([part[flags] for part, flags in zip(level, inside, strict=True)])
        for level in levels
    )
    decoded = head.bbox_coder.decode(priors, deltas)
    cls = box = ctr = denominator = 0.0
    for a, index in enumerate(assigned):
        if index < 0:
            continue
        weight = 1.0 if index == 0 else weights[index - 1]
        factor = pos_weight if index > 0 and pos_weight > 0 else 1.0
        for c in range(NUM_CLASSES):
            hit = index > 0 and LABELS[index - 1] == c
            cls += factor * weight * focal(scores[a, c], hit)
        if index == 0:
            continue
        x1, y1, x2, y2 = priors[a].tolist()
        px, py = (x1 + x2) / 2, (y1 + y2) / 2
        x1, y1, x2, y2 = BOXES[index - 1]
        sides = sorted([px - x1, x2 - px]), sorted([py - y1, y2 - py])
        target = math.sqrt(sides[0][0] / sides[0][1] * sides[1][0] / sides[1][1])
        denominator += target
        box += 2 * weight * target * iou_loss(decoded[a], BOXES[index - 1])
        p = centerness[a, 0].sigmoid()
        ctr -= weight * (target * p.log() + (1 - target) * (1 - p).log())
    num_pos = sum(index > 0 for index in assigned)
    assert {i for i, weight in enumerate(weights, 1) if weight} <= set(assigned)
    assert_same_gradients(head, total(losses), (cls + ctr) / num_pos + box / max(denominator, 1.0))


@pytest.mark.parametrize('weights', [[0.3, 1.0, 0.7], [0.0, 0.5, 2.0]])
def test_roi_head_against_a_float64_loop(weights):
    cfg = faster_rcnn()
    cfg['train_cfg']['rcnn']['sampler'].update(num=100000, pos_fraction=1.0)
    model = build(cfg).double().eval()
    weigh_boxes(model)
    roi_head = model.roi_head
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)).double()
    made = sample(BOXES, LABELS, weights)
    made.gt_instances.bboxes = made.gt_instances.bboxes.double()
    jitter = torch.tensor([[2.0, -1, 3, 1], [-3, 2, -2, -1]]).double()
    regions = torch.cat(
        [made.gt_instances.bboxes + jitter[0], made.gt_instances.bboxes + jitter[1]]
    )
    regions = torch.cat([regions, torch.tensor([[0.0, 50, 12, 63], [50, 40, 60, 44]]).double()])
    features = model.extract_feat(images)
    losses = roi_head.loss(features, [InstanceData(bboxes=regions.clone())], [made])

    # Ground-truth boxes are proposals, too, and come first.
    priors = torch.cat([made.gt_instances.bboxes, regions])
    assigned = roi_head.bbox_assigner.assign(InstanceData(priors=priors), made.gt_instances).gt_inds
    used = assigned >= 0
    priors, assigned = priors[used], assigned[used]
    rois = torch.cat([priors.new_zeros(len(priors), 1), priors], 1)
    result = roi_head._bbox_forward(features, rois)
    cls = box = 0.0
    for row, index in enumerate(assigned.tolist()):
        label = NUM_CLASSES if index == 0 else LABELS[index - 1]
        weight = 1.0 if index == 0 else weights[index - 1]
        cls -= weight * result['cls_score'][row].log_softmax(0)[label]
        if index > 0:
            target = roi_head.bbox_head.bbox_coder.encode(
                priors[row : row + 1], made.gt_instances.bboxes[index - 1 : index]
            )[0]
            delta = result['bbox_pred'][row].reshape(NUM_CLASSES, 4)[label]
            difference = (delta - target).abs()
            smooth = torch.where(difference < 1, difference**2 / 2, difference - 0.5)
            box += weight * smooth.sum()
    assert {i for i, weight in enumerate(weights, 1) if weight} <= set(assigned.tolist())
    assert_same_gradients(
        roi_head.bbox_head, losses['loss_cls'] + losses['loss_bbox'],
        (cls + box) / len(assigned),
    )  # fmt: skip


def gfl():
    cfg = atss()
    cfg['type'] = 'GFL'
    cfg['bbox_head'].update(
        type='GFLHead',
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    )
    del cfg['bbox_head']['bbox_coder']
    return cfg


def paa():
    cfg = atss()
    cfg['type'] = 'PAA'
    cfg['bbox_head'].update(type='PAAHead', loss_bbox=dict(type='GIoULoss'))
    cfg['train_cfg']['assigner'] = dict(
        type='MaxIoUAssigner', pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0, ignore_iof_thr=-1
    )
    return cfg


def ddod():
    cfg = atss()
    cfg['type'] = 'DDOD'
    cfg['bbox_head'].update(type='DDODHead', use_dcn=False,
                            norm_cfg=dict(type='GN', num_groups=4), loss_bbox=dict(type='GIoULoss'),
                            loss_iou=dict(type='CrossEntropyLoss', use_sigmoid=True))  # fmt: skip
    cfg['train_cfg'] = dict(
        assigner=dict(type='ATSSAssigner', topk=9, alpha=0.8),
        reg_assigner=dict(type='ATSSAssigner', topk=4, alpha=0.5),
        allowed_border=-1, pos_weight=-1, debug=False,
    )  # fmt: skip
    return cfg


def yolox():
    cfg = fcos()
    cfg['type'] = 'YOLOX'
    cfg['bbox_head'] = dict(
        type='YOLOXHead', num_classes=NUM_CLASSES, in_channels=16, feat_channels=16,
        stacked_convs=1, strides=(16, 32), norm_cfg=dict(type='GN', num_groups=4),
    )  # fmt: skip
    cfg['train_cfg'] = dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5))
    return cfg


def mask_rcnn():
    cfg = faster_rcnn()
    cfg['type'] = 'MaskRCNN'
    cfg['roi_head'].update(
        mask_roi_extractor=cfg['roi_head']['bbox_roi_extractor'],
        mask_head=dict(
            type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=8, num_classes=3
        ),
    )
    cfg['train_cfg']['rcnn']['mask_size'] = 14
    return cfg


#: Of each way in which MMDetection computes its losses one; coverage.py tries all its detectors.
WAYS = {**FAMILIES, 'gfl': gfl, 'paa': paa, 'ddod': ddod, 'yolox': yolox, 'mask_rcnn': mask_rcnn}
SURE, FAR, OVER = [24.0, 20, 66, 68], [[84.0, 84, 124, 124], [4, 90, 40, 124]], [34.0, 24, 76, 76]


def moved(model, boxes, weights, box_weights=None):
    """How far the regression of boxes is moved in all heads."""
    made = trial_sample(torch.tensor(boxes), torch.tensor(weights), 128)
    if box_weights is not None:
        made.gt_instances.box_weights = torch.tensor(box_weights)
    found = [trace for traces in box_gradients(model, [made]).values() for trace in traces]
    return sum(float(of_boxes(grad, box).abs().sum()) for grad, box in found), sum(
        float(grad.abs().sum()) for grad, box in found
    )


@pytest.mark.parametrize('way', WAYS)
def test_ignore_regions_neither_thin_out_the_loss_of_a_box_nor_take_its_priors(way):
    model = build(WAYS[way]())
    weigh_boxes(model)
    alone, every = moved(model, [SURE], [1.0])
    assert alone > 0
    assert moved(model, [SURE, *FAR], [1.0, 0.0, 0.0])[0] == pytest.approx(alone, rel=0.02)
    assert moved(model, [SURE, OVER], [1.0, 0.0])[0] == pytest.approx(alone, rel=0.02)
    if not hasattr(model, 'roi_head'):  # Which samples others, as many.
        # What they cover is no background.
        assert moved(model, [SURE, *FAR], [1.0, 0.0, 0.0])[1] < every
    assert moved(model, [SURE], [0.5])[0] == pytest.approx(alone / 2, rel=1e-5)
    assert moved(model, [SURE], [0.5], [2.0])[0] > alone


def test_boxes_without_masks_teach_no_masks():
    model = build(mask_rcnn())
    weigh_boxes(model)
    loss, logs = model.parse_losses(
        model.loss(torch.randn(1, 3, 64, 64), [sample(BOXES, LABELS, [1.0, 0.5, 0.0])])
    )
    loss.backward()
    assert logs['loss_mask'] == 0 and logs['loss_bbox'] > 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


class Bagged(RetinaHead):
    """A head whose losses mix the predictions of all anchors, as FreeAnchor's do."""

    def loss_by_feat(self, cls_scores, bbox_preds, *args, **kwargs):
        losses = super().loss_by_feat(cls_scores, bbox_preds, *args, **kwargs)
        return dict(losses, loss_bag=torch.cat([part.flatten() for part in bbox_preds]).var())


class Alone(RetinaHead):
    """A head with an assigner of which nobody knows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = nn.Module()
        self.extra.assigner = TASK_UTILS.build(retinanet()['train_cfg']['assigner'])


@pytest.mark.parametrize(
    'head, reason', [(Bagged, 'reach predictions'), (Alone, 'in a way that mmext does not know')]
)
def test_heads_that_cannot_be_weighted_are_refused(head, reason):
    model = build(retinanet())
    cfg = {k: v for k, v in retinanet()['bbox_head'].items() if k != 'type'}
    model.bbox_head = head(**cfg, train_cfg=model.train_cfg, test_cfg=model.test_cfg)
    with pytest.raises(TypeError, match=reason):
        weigh_boxes(model)
