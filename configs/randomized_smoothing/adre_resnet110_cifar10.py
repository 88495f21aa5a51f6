# ADRE with ResNet-110 on CIFAR-10 by the schedule of arXiv 1902.02918: 90 epochs of batch 400.
_base_ = ['../_base_/datasets/cifar10.py', '../_base_/cls_runtime.py']

model = dict(
    type='mmext.ADREClassifier',
    sigma=0.25,
    num_noise=8,
    adre_weight=0.1,
    classifier=dict(
        type='ImageClassifier',
        data_preprocessor=_base_.data_preprocessor,
        backbone=dict(type='mmext.CifarResNet', depth=110),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    ),
)
train_dataloader = dict(batch_size=400)
val_dataloader = dict(batch_size=400)
test_dataloader = val_dataloader
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60], gamma=0.1)
auto_scale_lr = dict(base_batch_size=400)
