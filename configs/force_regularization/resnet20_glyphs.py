# ResNet-20 on 50 characters, 16 x 16, tested on fonts it has never seen; two minutes on a CPU.
_base_ = ['../_base_/datasets/digits.py', '../_base_/cls_runtime.py']

dataset = dict(
    _delete_=True,
    type='mmext.GlyphDataset',
    classes=50,
    size=16,
    num_samples=3000,
    pipeline=_base_.pipeline,
)
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=50, mean=[38.0], std=[81.0], to_rgb=False),
    backbone=dict(type='mmext.CifarResNet', depth=20, in_channels=1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=50, in_channels=64, loss=dict(type='CrossEntropyLoss')
    ),
)
train_dataloader = dict(dataset=dict(split='train', **dataset))
val_dataloader = dict(dataset=dict(split='val', **{**dataset, 'num_samples': 1000}))
test_dataloader = dict(dataset=dict(split='test', **{**dataset, 'num_samples': 2000}))
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=15)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=15, by_epoch=True, convert_to_iter_based=True)
]
auto_scale_lr = dict(base_batch_size=64)
