# SmoothOut with MMPretrain's AlexNet on ImageNet and the strength of the author's example. The
# author's AlexNet has batch norm; batch size and schedule here are ours.
_base_ = ['../_base_/datasets/imagenet.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='AlexNet', num_classes=1000),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss'), topk=(1, 5)),
)
train_dataloader = dict(batch_size=256, persistent_workers=True)
val_dataloader = dict(batch_size=256, persistent_workers=True)
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=5)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 80], gamma=0.1)
custom_hooks = [*_base_.custom_hooks, dict(type='mmext.SmoothOutHook', strength=0.006)]
auto_scale_lr = dict(base_batch_size=256)
