# CST around FCOS R50-FPN with center sampling, normalised boxes, centerness on the box branch and
# GIoU, as MMDetection's fcos_r50_fpn_gn-head-center-normbbox-centeronreg-giou.
preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
detector = dict(
    type='FCOS',
    data_preprocessor=preprocessor,
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        # A local file: configs/cst/README.md says where it comes from.
        init_cfg=dict(type='Pretrained', checkpoint='data/pretrained/resnet50-0676ba61.pth'),
    ),
    neck=dict(
        type='FPN',
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=80,
        in_channels=256,
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        conv_bias=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
    ),
)
model = dict(
    type='mmext.CycleSelfTraining',
    detector=detector,
    consistency=dict(type='mmext.DistributionConsistency', kind='js'),
    semi_train_cfg=dict(score_thr=0.5, ignore_score_thr=0.3, score_power=0.5, unsup_weight=2.0),
    semi_test_cfg=dict(predict_on='teacher1'),
    data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=preprocessor),
)
