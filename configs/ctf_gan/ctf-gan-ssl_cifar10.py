# CTF and self-supervision on 70 % of CIFAR-10; put the official python version into data/cifar10
# and a TorchScript Inception-v3 into data/inception. max_iters counts steps of the discriminator.
_base_ = ['_base_/hq_lq.py', '_base_/sngan_32.py', '_base_/gan_runtime.py']

# MMPretrain's CIFAR gives RGB.
cifar = dict(type='mmpretrain.CIFAR10', data_root='data/cifar10', download=False)
pack = [
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmext.Degrade', shrink=(2, 4), fixed=False),
    dict(type='mmext.PackGANInputs'),
]
index_file = 'data/ctf_gan/cifar10_hq70.json'
source = dict(split='train', pipeline=pack, **cifar)
hq = dict(type='mmext.HQSubset', part='hq', hq_ratio=0.7, index_file=index_file, dataset=source)
lq = dict(hq, part='lq', lq_ratio=0.1)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(batch_size=64),
    dataset=dict(datasets=[hq, lq]),
)
# FID against the 50,000 training images with as many fakes, as most tables have it.
val_dataloader = dict(
    batch_size=250,
    num_workers=4,
    dataset=dict(split='train', pipeline=[dict(type='mmext.PackGANInputs')], **cifar),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmext.GenerativeMetrics',
    split='train',
    splits=10,
    measures=['FID', 'IS', 'KID'],
    extractor=dict(type='inception', path='data/inception/inception-2015-12-05.pt'),
)
test_evaluator = val_evaluator
# 100,000 steps of the generator.
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=500000, val_interval=50000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1, end_factor=1e-3, begin=0, end=500000, by_epoch=False)
]
# No best checkpoint: its FID would have been chosen by the images that it is measured on.
default_hooks = dict(checkpoint=dict(interval=50000), logger=dict(interval=500))
