# ADRE with ResNet-50 on ImageNet by the schedule of arXiv 1902.02918, 8 GPUs.
_base_ = ['../_base_/datasets/imagenet.py', '../_base_/cls_runtime.py']

model = dict(
    type='mmext.ADREClassifier',
    sigma=0.5,
    num_noise=8,
    adre_weight=0.1,
    classifier=dict(
        type='ImageClassifier',
        data_preprocessor=_base_.data_preprocessor,
        backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=2048),
    ),
)
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=5)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60], gamma=0.1)
auto_scale_lr = dict(base_batch_size=256)
