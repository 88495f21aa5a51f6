# GoogLeNet without auxiliary heads on ImageNet, 2 workers: the settings of the paper's table.
_base_ = './_base_/imagenet.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.GoogLeNet', dropout=0.08),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss'), topk=(1, 5)),
)
train_dataloader = dict(batch_size=64)
train_cfg = dict(by_epoch=False, max_iters=600000, val_interval=10000)
optim_wrapper = dict(
    type='mmext.TernGradOptimWrapper',
    clip_factor=2.5,
    optimizer=dict(type='SGD', lr=0.04, momentum=0.9, weight_decay=1e-5),
)
param_scheduler = dict(type='PolyLR', power=0.5, by_epoch=False, end=600000)
auto_scale_lr = dict(base_batch_size=128)
