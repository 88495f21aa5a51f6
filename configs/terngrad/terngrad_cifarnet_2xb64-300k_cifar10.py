# CifarNet on CIFAR-10 with Adam, 2 workers: rate, batch and length of the paper. Crops are 24 x 24.
_base_ = ['../_base_/datasets/cifar10.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    # Crops and flips are the pipeline's.
    data_preprocessor={**_base_.data_preprocessor, 'padding': 0, 'flip_prob': 0.0},
    backbone=dict(type='mmext.CifarNet', num_classes=10),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=24),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.25, contrast=0.8),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='CenterCrop', crop_size=24), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler'),
    # Each image anew, and all 50,000 of them.
    dataset=dict(_delete_=True, split='train', pipeline=train_pipeline, **_base_.data),
)
val_dataloader = dict(
    dataset=dict(dataset=dict(split='test'), per_class=None, pipeline=test_pipeline)
)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
train_cfg = dict(by_epoch=False, max_iters=300000, val_interval=10000)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='mmext.TernGradOptimWrapper',
    clip_factor=2.5,
    optimizer=dict(type='Adam', lr=2e-4, weight_decay=0.004),
)
param_scheduler = []
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=10000, max_keep_ckpts=2),
)
log_processor = dict(type='LogProcessor', by_epoch=False)
auto_scale_lr = dict(base_batch_size=128)
