# SmoothOut with Keskar's C1 on CIFAR-10. Schedule of the authors' ResNet-44; strength ours.
_base_ = ['../_base_/datasets/cifar10.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.KeskarC1'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=192),
)
val_dataloader = dict(batch_size=256)
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[81, 122, 164], gamma=0.1)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmext.SmoothOutHook', strength=0.006, recalibrate_bn=100),
]
auto_scale_lr = dict(base_batch_size=128)
