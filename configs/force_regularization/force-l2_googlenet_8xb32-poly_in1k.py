# GoogLeNet (torchvision's, with BN) with L2 force: polynomial decay of power 0.5 and weight decay
# 1e-4 are the author's, batch, length and strength are ours.
_base_ = '_base_/imagenet_bs256.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.GoogLeNet'),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0), topk=(1, 5)),
)
train_cfg = dict(by_epoch=False, max_iters=300000, val_interval=10000)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = [dict(type='PolyLR', power=0.5, begin=0, end=300000, by_epoch=False)]
force = dict(type='mmext.ForceRegularizationHook', strength=0.1, kind='l2', mode='adaptive')
custom_hooks = [*_base_.custom_hooks, force]
