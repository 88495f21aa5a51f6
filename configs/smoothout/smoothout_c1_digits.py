# SmoothOut on handwritten digits, 16 x 16, with a narrow C1; seconds on a CPU.
_base_ = ['../_base_/datasets/digits.py', '../_base_/cls_runtime.py']

num_classes = 10
model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='mmext.KeskarC1', in_channels=1, image_size=16, widths=(8, 16), features=(64,)
    ),
    head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=64),
)
train_dataloader = dict(batch_size=32, dataset=dict(size=16))
val_dataloader = dict(dataset=dict(size=16))
test_dataloader = dict(dataset=dict(size=16))
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(
    type='CosineAnnealingLR', T_max=20, by_epoch=True, convert_to_iter_based=True
)
smoothout = dict(type='mmext.SmoothOutHook', strength=0.01, recalibrate_bn=30)
custom_hooks = [*_base_.custom_hooks, smoothout]
auto_scale_lr = dict(base_batch_size=32)
