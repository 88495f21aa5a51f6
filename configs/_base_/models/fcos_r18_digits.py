# FCOS small enough to train on two CPU cores: about 1 M parameters, strides 8 and 16.
# Backbone initialised as a classifier of rendered letters (configs/cst/letters_r18.py); it has
# never seen a digit. From scratch this schedule stays below 8 AP.
preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[64.0, 64.0, 64.0],
    bgr_to_rgb=False,
    pad_size_divisor=16,
)
detector = dict(
    type='FCOS',
    data_preprocessor=preprocessor,
    backbone=dict(
        type='mmpretrain.ResNet_CIFAR',  # a ResNet without max-pooling
        depth=18,
        base_channels=16,
        stem_channels=16,
        strides=(2, 2, 2, 2),
        out_indices=(2, 3),
        norm_eval=False,
        init_cfg=dict(
            type='Pretrained', checkpoint='data/letters_r18/letters_r18.pth', prefix='backbone.'
        ),
    ),
    neck=dict(
        type='FPN',
        in_channels=[64, 128],
        out_channels=48,
        num_outs=2,
    ),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=10,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        strides=[8, 16],
        regress_ranges=((-1, 24), (24, 1e8)),
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
