# Caffe's LeNet on handwritten digits, 28 x 28; seconds on a CPU.
_base_ = ['../_base_/datasets/digits.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.CaffeLeNet'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=500, loss=dict(type='CrossEntropyLoss')
    ),
)
train_dataloader = dict(dataset=dict(size=28))
val_dataloader = dict(dataset=dict(size=28))
test_dataloader = dict(dataset=dict(size=28))
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=40)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=40, by_epoch=True, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=64)
