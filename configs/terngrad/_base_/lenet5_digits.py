# LeNet-5 on handwritten digits with SGD and momentum; seconds on a CPU.
_base_ = ['../../_base_/datasets/digits.py', '../../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='LeNet5', num_classes=10),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
)
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=20)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=40, by_epoch=True, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=64)
