# LeNet on MNIST, 2 workers and 64 images in all: batch, rate and length of the paper. MMPretrain's
# LeNet-5; data/mnist holds the official files.
_base_ = '../_base_/cls_runtime.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=10, mean=[33.46], std=[78.87], to_rgb=False),
    backbone=dict(type='LeNet5', num_classes=10),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
)
data = dict(type='MNIST', data_root='data/mnist', download=False)
pipeline = [dict(type='Resize', scale=32), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=32,
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
    type='mmext.TernGradOptimWrapper',
    clip_factor=2.5,
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(type='PolyLR', power=0.5, by_epoch=False, end=10000)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=2),
)
log_processor = dict(type='LogProcessor', by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
