# VGG-A, whose throughput the paper models; batch size and schedule are ours. Last layer float.
_base_ = './_base_/imagenet.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='VGG', depth=11, num_classes=1000),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss'), topk=(1, 5)),
)
train_dataloader = dict(batch_size=32)
train_cfg = dict(by_epoch=False, max_iters=300000, val_interval=10000)
optim_wrapper = dict(
    type='mmext.TernGradOptimWrapper',
    clip_factor=2.5,
    keep_float=[r'backbone\.classifier\.6\.'],
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(type='PolyLR', power=0.5, by_epoch=False, end=300000)
auto_scale_lr = dict(base_batch_size=256)
