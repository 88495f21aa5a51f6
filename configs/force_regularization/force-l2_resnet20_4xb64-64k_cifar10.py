# ResNet-20 on CIFAR-10 with L2 force by the author's schedule: 64k iterations of batch 256, no
# force on the first convolution and the 1x1 shortcuts. The strength is not published; ours is that
# of the glyphs.
_base_ = ['../_base_/datasets/cifar10.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.CifarResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')
    ),
)
train_dataloader = dict(batch_size=64, sampler=dict(type='InfiniteSampler'))
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
