# LeNet on MNIST with L1 force: schedule and strength are the author's.
_base_ = ['../_base_/datasets/mnist.py', '../_base_/cls_runtime.py']

data_preprocessor = dict(mean=[0.0], std=[256.0])
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=10, to_rgb=False, **data_preprocessor),
    backbone=dict(type='mmext.CaffeLeNet'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=500, loss=dict(type='CrossEntropyLoss')
    ),
)
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64, sampler=dict(type='InfiniteSampler'), dataset=dict(pipeline=pipeline)
)
val_dataloader = dict(batch_size=500, dataset=dict(pipeline=pipeline))
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=False, max_iters=10000, val_interval=1000)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[5000, 7000, 8000, 9000, 9500],
        gamma=0.9,
    )
]
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=1000),
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
force = dict(type='mmext.ForceRegularizationHook', strength=1e-3, kind='l1')
custom_hooks = [*_base_.custom_hooks, force]
