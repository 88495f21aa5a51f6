# LeNet on MNIST, 2 workers and 64 images in all: batch, rate and length of the paper. MMPretrain's
# LeNet-5; data/mnist holds the official files.
_base_ = ['../_base_/datasets/mnist.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='LeNet5', num_classes=10),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
)
train_dataloader = dict(batch_size=32, sampler=dict(type='InfiniteSampler'))
val_dataloader = dict(batch_size=500)
test_dataloader = val_dataloader
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
