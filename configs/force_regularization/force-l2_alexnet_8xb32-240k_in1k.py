# AlexNet with L2 force by the author's schedule: 240k iterations from a trained network on a tenth
# of its learning rate (give load_from). MMPretrain's AlexNet is the single-column one without
# groups. The paper's strength is not published; the adaptive one is ours.
_base_ = '_base_/imagenet_bs256.py'

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='AlexNet', num_classes=1000),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0)),
)
train_cfg = dict(by_epoch=False, max_iters=240000, val_interval=10000)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=False, milestones=[150000, 200000, 220000], gamma=0.1)
]
force = dict(type='mmext.ForceRegularizationHook', strength=0.1, kind='l2', mode='adaptive')
custom_hooks = [*_base_.custom_hooks, force]
