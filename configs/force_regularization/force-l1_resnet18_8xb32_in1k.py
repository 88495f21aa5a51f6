# ResNet-18 with L1 force from a trained network (give load_from), as the author advises: from
# scratch with L1 1e-4 a user saw it diverge. Schedule and strength are ours.
_base_ = '_base_/imagenet_bs256.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
train_cfg = dict(by_epoch=False, max_iters=150000, val_interval=10000)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[70000, 140000], gamma=0.1)]
force = dict(
    type='mmext.ForceRegularizationHook',
    strength=2e-5,
    kind='l1',
    exclude=[r'^backbone\.conv1$', 'downsample'],
)
custom_hooks = [*_base_.custom_hooks, force]
