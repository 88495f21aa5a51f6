# Self-supervised training on photos that ship with the dependencies; MMEngine alone, no host.
_base_ = '../../_base_/iter_runtime.py'

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmext.PhotoCrops', split='train', size=96, num_samples=2400),
    collate_fn=dict(type='default_collate'),
)
train_cfg = dict(by_epoch=False, max_iters=600)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-3),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=40),
]
default_hooks = dict(checkpoint=dict(interval=200))
