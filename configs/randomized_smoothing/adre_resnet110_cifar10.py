# ADRE with ResNet-110 on CIFAR-10 by the schedule of arXiv 1902.02918: 90 epochs of batch 400.
_base_ = '../_base_/cls_runtime.py'

model = dict(
    type='mmext.ADREClassifier',
    sigma=0.25,
    num_noise=8,
    adre_weight=0.1,
    classifier=dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            num_classes=10,
            # Of RGB; MMPretrain's CIFAR10 gives RGB.
            mean=[125.307, 122.961, 113.8575],
            std=[51.5865, 50.847, 51.255],
            to_rgb=False,
        ),
        backbone=dict(type='mmext.ResNet110'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    ),
)
data = dict(type='CIFAR10', data_root='data/cifar10', download=False)
train_dataloader = dict(
    batch_size=400,
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        split='train',
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
        **data,
    ),
)
val_dataloader = dict(
    batch_size=400,
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=[dict(type='PackInputs')], **data),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60], gamma=0.1)
auto_scale_lr = dict(base_batch_size=400)
