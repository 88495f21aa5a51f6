# CTF and self-supervision on 70 % of ImageNet's 1,000 classes at 128 x 128; data/imagenet holds
# train/ and val/. Batch 256 in all: 8 GPUs of 32.
_base_ = 'ctf-gan-ssl_cifar10.py'

imagenet = dict(type='mmpretrain.ImageNet', data_root='data/imagenet', split='train')
load = [
    dict(type='mmpretrain.LoadImageFromFile'),
    dict(type='mmpretrain.ResizeEdge', scale=128, edge='short', interpolation='area'),
    dict(type='mmpretrain.CenterCrop', crop_size=128),
]
pack = [
    *load,
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmext.Degrade', shrink=(2, 4), fixed=False),
    dict(type='mmext.PackGANInputs'),
]
index_file = 'data/ctf_gan/imagenet_hq70.json'
source = dict(pipeline=pack, **imagenet)
hq = dict(type='mmext.HQSubset', part='hq', hq_ratio=0.7, index_file=index_file, dataset=source)
lq = dict(
    type='mmext.HQSubset', part='lq', hq_ratio=0.7, lq_ratio=0.1, index_file=index_file,
    dataset=source,
)  # fmt: skip
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    sampler=dict(batch_size=32),
    dataset=dict(datasets=[hq, lq]),
)
# 50,000 validation images and as many fakes.
real = dict(
    type='mmpretrain.ImageNet',
    data_root='data/imagenet',
    split='val',
    pipeline=[*load, dict(type='mmext.PackGANInputs')],
)
val_dataloader = dict(batch_size=50, num_workers=8, dataset=dict(_delete_=True, **real))
test_dataloader = dict(batch_size=50, num_workers=8, dataset=dict(_delete_=True, **real))
val_evaluator = dict(split='val')
test_evaluator = dict(split='val')
model = dict(
    data_preprocessor=dict(type='mmext.GANDataPreprocessor', to_rgb=True),
    generator=dict(output_scale=128, num_classes=1000, base_channels=64),
    discriminator=dict(input_scale=128, num_classes=1000, base_channels=64),
    transfer=dict(scales=(8, 16), base_channels=16),
)
# 450,000 steps of the generator, as SN-GAN with projection.
train_cfg = dict(max_iters=2250000, val_interval=100000)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1, end_factor=1e-3, begin=2000000, end=2250000, by_epoch=False
    )
]
default_hooks = dict(checkpoint=dict(interval=50000))
auto_scale_lr = dict(base_batch_size=256)
