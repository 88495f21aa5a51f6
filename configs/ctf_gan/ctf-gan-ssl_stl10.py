# CTF and self-supervision on 70 % of STL-10 at 48 x 48, training and unlabelled images, without
# classes; put the official binary files into data/stl10_binary.
_base_ = 'ctf-gan-ssl_cifar10.py'

stl = dict(type='mmext.STL10Dataset', data_root='data/stl10_binary', split='train+unlabeled')
pack = [
    dict(type='mmpretrain.Resize', scale=48, interpolation='area'),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmext.Degrade', shrink=(2, 4), fixed=False),
    dict(type='mmext.PackGANInputs'),
]
index_file = 'data/ctf_gan/stl10_hq70.json'
source = dict(pipeline=pack, **stl)
hq = dict(type='mmext.HQSubset', part='hq', hq_ratio=0.7, index_file=index_file, dataset=source)
lq = dict(hq, part='lq', lq_ratio=0.1)
train_dataloader = dict(dataset=dict(datasets=[hq, lq]))
real = dict(
    pipeline=[
        dict(type='mmpretrain.Resize', scale=48, interpolation='area'),
        dict(type='mmext.PackGANInputs'),
    ],
    **stl,
)
val_dataloader = dict(dataset=dict(_delete_=True, **real))
test_dataloader = dict(dataset=dict(_delete_=True, **real))
val_evaluator = dict(split='train+unlabeled')
test_evaluator = dict(split='train+unlabeled')
# 6 x 6 to 48 x 48.
model = dict(
    data_preprocessor=dict(type='mmext.GANDataPreprocessor', to_rgb=True),
    generator=dict(output_scale=48, input_scale=6, num_classes=0, base_channels=64),
    discriminator=dict(input_scale=48, num_classes=0, base_channels=64),
    transfer=dict(scales=(12, 24)),
)
