# LeNet on MNIST with L1 force: schedule and strength are the author's.
_base_ = '../_base_/cls_runtime.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=10, mean=[0.0], std=[256.0], to_rgb=False),
    backbone=dict(type='mmext.CaffeLeNet'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=500, loss=dict(type='CrossEntropyLoss')
    ),
)
data = dict(type='MNIST', data_root='data/mnist', download=False)
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', pipeline=pipeline, **data),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=pipeline, **data),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
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
