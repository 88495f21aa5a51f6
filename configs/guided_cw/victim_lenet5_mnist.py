# MMPretrain's LeNet-5 on MNIST, to be attacked with mmext attack.
_base_ = ['../_base_/datasets/mnist.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='LeNet5', num_classes=10),
    neck=None,
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0)),
)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=5)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[15], gamma=0.1)
auto_scale_lr = dict(base_batch_size=128)
