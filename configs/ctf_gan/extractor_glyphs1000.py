# The classifier whose features measure generated characters; trained on all training drawings.
_base_ = ['../_base_/cls_runtime.py']

num_classes = 1000
fonts = ['wqy-zenhei', 'wqy-microhei', 'ukai', 'uming']
glyphs = dict(
    type='mmext.GlyphDataset',
    alphabet='gb2312',
    classes=num_classes,
    fonts=fonts,
    size=32,
    pipeline=[dict(type='PackInputs')],
)
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=num_classes, mean=[60.0], std=[80.0], to_rgb=False),
    # A stem of stride 4: a few million operations for an image.
    backbone=dict(
        type='ResNet',
        depth=18,
        in_channels=1,
        stem_channels=24,
        base_channels=24,
        out_indices=(3,),
        strides=(1, 2, 2, 1),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=192),
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', num_samples=20 * num_classes, **glyphs),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', num_samples=2 * num_classes, **glyphs),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=4)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.01))
param_scheduler = [
    dict(type='OneCycleLR', eta_max=0.004, total_steps=8, by_epoch=True, convert_to_iter_based=True)
]
