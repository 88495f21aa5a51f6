# Adaptation on Office: all images of both domains, tested on the target (the usual protocol). Needs
# the weights of conv-m-4p1m_8xb32_in1k.py. Rates and schedule as DAN and RTN.
_base_ = './da_runtime.py'

num_classes = 31
pretrained = 'work_dirs/conv-m-4p1m_8xb32_in1k/epoch_90.pth'
model = dict(
    type='mmext.DomainAdaptationClassifier',
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    ),
    backbone=dict(
        type='mmext.ConvMNet',
        arch='4p1m',
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    ),
    neck=dict(
        type='LinearNeck', in_channels=1024, out_channels=256, gap_dim=2, act_cfg=dict(type='ReLU')
    ),
    head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=256),
    da_losses=dict(
        adversarial=dict(type='mmext.DomainAdversarialLoss', in_channels=256, hidden_channels=1024),
        mmd=dict(type='mmext.MKMMDLoss', schedule='sigmoid'),
        label=dict(type='mmext.LabelAdaptation', num_classes=num_classes),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256)),
    dict(type='RandomCrop', crop_size=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256)),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
office = dict(type='mmext.OfficeDataset', data_root='data/office31', variant='office31')
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='mmext.TwoDomainSampler', batch_size=64),
    dataset=dict(
        type='mmext.TwoDomainDataset',
        source=dict(pipeline=train_pipeline, **office),
        target=dict(pipeline=[dict(type='mmext.DropLabel'), *train_pipeline], **office),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline, **office),
)
test_dataloader = val_dataloader

train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=20000, val_interval=500)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
    # New layers learn ten times as fast.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
)
param_scheduler = dict(type='mmext.InvLR', gamma=0.001, power=0.75, by_epoch=False)
default_hooks = dict(checkpoint=dict(interval=500))
