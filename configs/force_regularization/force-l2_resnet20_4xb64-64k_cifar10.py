# ResNet-20 on CIFAR-10 with L2 force by the author's schedule: 64k iterations of batch 256, no
# force on the first convolution and the 1x1 shortcuts. The strength is not published; ours is that
# of the glyphs.
_base_ = '../_base_/cls_runtime.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=10,
        # Of RGB; MMPretrain's CIFAR10 gives RGB.
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
    ),
    backbone=dict(type='mmext.CifarResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')
    ),
)
data = dict(type='CIFAR10', data_root='data/cifar10', download=False)
augment = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', pipeline=[*augment, dict(type='PackInputs')], **data),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=[dict(type='PackInputs')], **data),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=False, max_iters=64000, val_interval=4000)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[32000, 48000], gamma=0.1)]
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=4000),
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=256)
force = dict(
    type='mmext.ForceRegularizationHook',
    strength=3e-4,
    kind='l2',
    exclude=[r'^backbone\.conv1$', 'downsample'],
)
custom_hooks = [*_base_.custom_hooks, force]
