"""Tiny detectors of each head family and batches for them, built in memory."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

NUM_CLASSES = 3
_BACKBONE = dict(
    type='ResNet', depth=18, base_channels=8, out_indices=(2, 3), norm_eval=False, frozen_stages=-1
)
_NECK = dict(type='FPN', in_channels=[32, 64], out_channels=16, num_outs=2)
_ANCHORS = dict(type='AnchorGenerator', scales=[2], ratios=[0.5, 1.0, 2.0], strides=[16, 32])
_CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4)
_ASSIGNER = dict(
    type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.1, ignore_iof_thr=-1
)
_PREPROCESSOR = dict(type='DetDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3, pad_size_divisor=32)


def fcos() -> dict:
    return dict(
        type='FCOS',
        data_preprocessor=_PREPROCESSOR,
        backbone=_BACKBONE,
        neck=_NECK,
        bbox_head=dict(
            type='FCOSHead',
            num_classes=NUM_CLASSES,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            strides=[16, 32],
            regress_ranges=((-1, 32), (32, 1e8)),
            norm_cfg=None,
            conv_bias=True,
        ),
        test_cfg=_test_cfg(),
    )


def retinanet() -> dict:
    return dict(
        type='RetinaNet',
        data_preprocessor=_PREPROCESSOR,
        backbone=_BACKBONE,
        neck=_NECK,
        bbox_head=dict(
            type='RetinaHead',
            num_classes=NUM_CLASSES,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            anchor_generator=_ANCHORS,
            bbox_coder=_CODER,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=dict(type='L1Loss'),
        ),
        train_cfg=dict(
            assigner=_ASSIGNER,
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=_test_cfg(),
    )


def atss() -> dict:
    cfg = retinanet()
    cfg['type'] = 'ATSS'
    cfg['bbox_head'].update(
        type='ATSSHead',
        norm_cfg=None,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=2,
            scales_per_octave=1,
            strides=[16, 32],
        ),
        loss_bbox=dict(type='IoULoss', loss_weight=2.0),
    )
    cfg['train_cfg']['assigner'] = dict(type='ATSSAssigner', topk=4)
    return cfg


def faster_rcnn() -> dict:
    def sampler(num):
        return dict(
            type='RandomSampler', num=num, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True
        )

    return dict(
        type='FasterRCNN',
        data_preprocessor=_PREPROCESSOR,
        backbone=_BACKBONE,
        neck=_NECK,
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            anchor_generator=_ANCHORS,
            bbox_coder=_CODER,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=5, sampling_ratio=0),
                out_channels=16,
                featmap_strides=[16, 32],
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=16,
                fc_out_channels=32,
                roi_feat_size=5,
                num_classes=NUM_CLASSES,
                bbox_coder=_CODER,
                reg_class_agnostic=False,
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=_ASSIGNER,
                sampler=dict(sampler(32), add_gt_as_proposals=False),
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
            rpn_proposal=dict(
                nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
            ),
            rcnn=dict(assigner=_ASSIGNER, sampler=sampler(16), pos_weight=-1, debug=False),
        ),
        test_cfg=dict(
            rpn=dict(
                nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
            ),
            rcnn=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10),
        ),
    )


def _test_cfg() -> dict:
    return dict(
        nms_pre=50,
        min_bbox_size=0,
        score_thr=0.001,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=10,
    )


FAMILIES = {'fcos': fcos, 'retinanet': retinanet, 'atss': atss, 'faster_rcnn': faster_rcnn}


def cycle(detector: dict, **changes) -> dict:
    """Config of a CycleSelfTraining that takes nearly every box as pseudo-label."""
    cfg = dict(
        type='mmext.CycleSelfTraining',
        detector=detector,
        consistency=dict(type='mmext.DistributionConsistency', kind='js'),
        semi_train_cfg=dict(score_thr=0.002),
        semi_test_cfg=dict(predict_on='teacher1'),
        data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=_PREPROCESSOR),
    )
    cfg.update(changes)
    return cfg


def build(cfg: dict, seed: int = 0):
    """Build a model under mmdet's scope, initialised from a seed."""
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    torch.manual_seed(seed)
    model = MODELS.build(ConfigDict(cfg))
    model.init_weights()
    return model


def sample(boxes=None, labels=None, weights=None, size=64) -> DetDataSample:
    """A data sample of a size x size image with an identity homography."""
    made = DetDataSample(
        metainfo=dict(
            img_shape=(size, size),
            ori_shape=(size, size),
            pad_shape=(size, size),
            batch_input_shape=(size, size),
            scale_factor=(1.0, 1.0),
            homography_matrix=np.eye(3, dtype=np.float32),
        )
    )
    made.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes or [], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or [], dtype=torch.long),
    )
    if weights is not None:
        made.gt_instances.weights = torch.tensor(weights, dtype=torch.float32)
    made.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    return made


def batch(seed: int = 0, images: int = 2, size: int = 64):
    """Preprocessed multi-branch batch: (inputs, data_samples)."""
    generator = torch.Generator().manual_seed(seed)

    def pictures():
        return torch.randn(images, 3, size, size, generator=generator)

    labelled = [
        sample([[8, 8, 40, 40], [20, 30, 60, 60]], [0, 2], size=size) for _ in range(images)
    ]
    inputs = dict(sup=pictures(), unsup_teacher=pictures(), unsup_student=pictures())
    samples = dict(
        sup=labelled,
        unsup_teacher=[sample(size=size) for _ in range(images)],
        unsup_student=[sample(size=size) for _ in range(images)],
    )
    return inputs, samples
