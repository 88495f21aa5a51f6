# SmoothOut with Keskar's C1 on CIFAR-10. Schedule of the authors' ResNet-44; strength ours.
_base_ = '../_base_/cls_runtime.py'

num_classes = 10
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=num_classes,
        # Of RGB; MMPretrain's CIFAR10 gives RGB.
        mean=[125.307, 122.961, 113.8575],
        std=[51.5865, 50.847, 51.255],
        to_rgb=False,
    ),
    backbone=dict(type='mmext.KeskarC1'),
    head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=192),
)
data = dict(type='CIFAR10', data_root='data/cifar10', download=False)
train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        split='train',
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
        **data,
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=[dict(type='PackInputs')], **data),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[81, 122, 164], gamma=0.1)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmext.SmoothOutHook', strength=0.006, recalibrate_bn=100),
]
auto_scale_lr = dict(base_batch_size=128)
