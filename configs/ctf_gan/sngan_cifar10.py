# The baseline: SN-GAN with projection on all of CIFAR-10.
_base_ = 'ctf-gan-ssl_cifar10.py'

everything = dict(
    type='mmext.HQSubset',
    part='hq',
    hq_ratio=1.0,
    dataset=dict(
        type='mmpretrain.CIFAR10',
        data_root='data/cifar10',
        download=False,
        split='train',
        pipeline=[
            dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='mmext.PackGANInputs'),
        ],
    ),
)
model = dict(transfer=None, self_supervision=None)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmext.GANOptimWrapperConstructor',
    generator=dict(optimizer=_base_.adam),
    discriminator=dict(optimizer=_base_.adam),
)
train_dataloader = dict(
    sampler=dict(source_ratio=[1]),
    dataset=dict(datasets=[everything]),
)
