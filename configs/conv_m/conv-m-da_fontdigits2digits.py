# Rendered font digits (labelled) to handwritten digits; about a minute on a CPU.
# Source only: --cfg-options model.da_losses=None; without one loss: model.da_losses.mmd=None
_base_ = './_base_/adaptation.py'

pack = dict(type='PackInputs')
rendered = dict(type='mmext.DigitsDataset', source='fontdigits', num_samples=2000)
handwritten = dict(type='mmext.DigitsDataset')
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='mmext.TwoDomainSampler', batch_size=64),
    dataset=dict(
        type='mmext.TwoDomainDataset',
        source=dict(split='train', pipeline=[pack], **rendered),
        target=dict(split='train', pipeline=[dict(type='mmext.DropLabel'), pack], **handwritten),
    ),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', pipeline=[pack], **handwritten),
)
test_dataloader = dict(
    batch_size=200,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=[pack], **handwritten),
)
