"""Weights of single boxes in the losses, each against a plain float64 loop."""

import copy
import inspect
import math

import pytest
import torch
from cst_detectors import FAMILIES, NUM_CLASSES, atss, build, faster_rcnn, fcos, retinanet, sample
from mmdet.models import dense_heads
from mmengine.structures import InstanceData

from mmext.plugins.cst.weighted import weigh_boxes, weighted_class

BOXES = [[4.0, 4, 36, 40], [20, 24, 62, 62], [40, 2, 62, 26]]
LABELS = [0, 2, 1]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def focal(logit, target, alpha=0.25, gamma=2.0):
    p = sigmoid(logit)
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def giou_or_iou_loss(a, b):
    """-log IoU, mmdet's IoULoss in its default mode."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return -math.log(max(w * h / area, 1e-6))


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
                    cls += weight * focal(scores[level][c, y, x].item(), hit)
                if best is None:
                    continue
                num_pos += 1
                x1, y1, x2, y2 = boxes[best]
                left, top, right, bottom = px - x1, py - y1, x2 - px, y2 - py
                target = math.sqrt(
                    min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
                )
                denominator += target
                d = deltas[level][:, y, x].tolist()
                found = (px - d[0], py - d[1], px + d[2], py + d[3])
                box += weight * target * giou_or_iou_loss(found, boxes[best])
                p = sigmoid(centerness[level][0, y, x].item())
                ctr -= weight * (target * math.log(p) + (1 - target) * math.log(1 - p))
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
    got = [losses[key].item() for key in ('loss_cls', 'loss_bbox', 'loss_centerness')]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-6, atol=1e-9)


def anchor_loop(assigned, logits, deltas, targets, labels, weights, sigmoid_focal):
    """Classification and L1 sums over anchors, one at a time."""
    cls = box = 0.0
    for a, index in enumerate(assigned):
        if index < 0:
            continue
        weight = 1.0 if index == 0 else weights[index - 1]
        for c in range(logits.shape[1]):
            hit = index > 0 and labels[index - 1] == c
            logit = logits[a, c].item()
            if sigmoid_focal:
                cls += weight * focal(logit, hit)
            else:
                p = sigmoid(logit)
                cls -= weight * (math.log(p) if hit else math.log(1 - p))
        if index > 0:
            box += weight * (deltas[a] - targets[a]).abs().sum().item()
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
    assert (assigned > 0).sum() >= 3
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
    got_cls = sum(losses['loss_cls' if family == 'retinanet' else 'loss_rpn_cls']).item()
    got_box = sum(losses['loss_bbox' if family == 'retinanet' else 'loss_rpn_bbox']).item()
    assert got_cls == pytest.approx(cls / factor, rel=1e-6)
    assert got_box == pytest.approx(box / factor, rel=1e-6)


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
        weight = 1.0 if index == 0 else weights[index - 1]
        factor = pos_weight if index > 0 and pos_weight > 0 else 1.0
        for c in range(NUM_CLASSES):
            hit = index > 0 and LABELS[index - 1] == c
            cls += factor * weight * focal(scores[a, c].item(), hit)
        if index == 0:
            continue
        x1, y1, x2, y2 = priors[a].tolist()
        px, py = (x1 + x2) / 2, (y1 + y2) / 2
        x1, y1, x2, y2 = BOXES[index - 1]
        sides = sorted([px - x1, x2 - px]), sorted([py - y1, y2 - py])
        target = math.sqrt(sides[0][0] / sides[0][1] * sides[1][0] / sides[1][1])
        denominator += target
        box += 2 * weight * target * giou_or_iou_loss(decoded[a].tolist(), BOXES[index - 1])
        p = sigmoid(centerness[a, 0].item())
        ctr -= weight * (target * math.log(p) + (1 - target) * math.log(1 - p))
    num_pos = sum(index > 0 for index in assigned)
    assert {1, 2, 3} <= set(assigned)
    got = [sum(losses[key]).item() for key in ('loss_cls', 'loss_bbox', 'loss_centerness')]
    expected = [cls / num_pos, box / max(denominator, 1.0), ctr / num_pos]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-6, atol=1e-9)


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
    counted = 0
    for row, index in enumerate(assigned.tolist()):
        label = NUM_CLASSES if index == 0 else LABELS[index - 1]
        weight = 1.0 if index == 0 else weights[index - 1]
        counted += weight > 0
        cls -= weight * result['cls_score'][row].log_softmax(0)[label].item()
        if index > 0:
            target = roi_head.bbox_head.bbox_coder.encode(
                priors[row : row + 1], made.gt_instances.bboxes[index - 1 : index]
            )[0]
            delta = result['bbox_pred'][row].reshape(NUM_CLASSES, 4)[label]
            difference = (delta - target).abs()
            smooth = torch.where(difference < 1, difference**2 / 2, difference - 0.5)
            box += weight * smooth.sum().item()
    assert {1, 2, 3} <= set(assigned.tolist())
    assert losses['loss_cls'].item() == pytest.approx(cls / counted, rel=1e-6)
    assert losses['loss_bbox'].item() == pytest.approx(box / len(assigned), rel=1e-6)


def test_a_head_that_cannot_be_weighted_is_refused_with_the_mend():
    cfg = retinanet()
    cfg['type'] = 'GFL'
    cfg['bbox_head'] = dict(
        type='GFLHead',
        num_classes=NUM_CLASSES,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        norm_cfg=None,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=2,
            scales_per_octave=1,
            strides=[16, 32],
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    )
    cfg['train_cfg']['assigner'] = dict(type='ATSSAssigner', topk=9)
    with pytest.raises(TypeError, match="GFLHead cannot take a weight per box.*kind='none'"):
        weigh_boxes(build(cfg))


def test_only_heads_that_compute_their_losses_like_the_served_ones_are_served():
    served = {
        name
        for name, head in vars(dense_heads).items()
        if inspect.isclass(head) and weighted_class(head) is not None
    }
    assert served == {
        'AnchorHead', 'RetinaHead', 'RetinaSepBNHead', 'RPNHead', 'ATSSHead', 'FCOSHead',
        'NASFCOSHead',
    }  # fmt: skip


def test_masks_are_refused():
    cfg = faster_rcnn()
    cfg['type'] = 'MaskRCNN'
    cfg['roi_head'].update(
        mask_roi_extractor=cfg['roi_head']['bbox_roi_extractor'],
        mask_head=dict(
            type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=8, num_classes=3
        ),
    )
    with pytest.raises(TypeError, match='StandardRoIHead cannot take a weight per box'):
        weigh_boxes(build(cfg))


def test_ignored_boxes_of_fcos_leave_the_loss_of_the_others_alone():
    """Uncertain boxes far from a sure one and over it neither thin out its loss nor take points."""
    model = build(FAMILIES['fcos']())
    weigh_boxes(model)
    sure, far, over = [4.0, 4, 40, 40], [44.0, 44, 62, 62], [8.0, 8, 36, 36]
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def losses(boxes, weights):
        labels = [1] * len(boxes)
        return model.loss(images, [sample(boxes, labels, weights)])

    alone = losses([sure], [1.0])
    beside = losses([sure, far, over], [1.0, 0.0, 0.0])
    for name in ('loss_bbox', 'loss_centerness'):
        torch.testing.assert_close(alone[name], beside[name])
    assert beside['loss_cls'] < alone['loss_cls']
