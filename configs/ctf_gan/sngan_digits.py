# The baseline: SN-GAN on all digits; hq_ratio=0.7 is the one with fewer.
_base_ = 'ctf-gan-ssl_digits.py'

everything = dict(
    type='mmext.HQSubset',
    part='hq',
    hq_ratio=1.0,
    dataset=dict(
        type='mmext.DigitsDataset',
        split='train',
        size=28,
        pipeline=[dict(type='mmext.PackGANInputs')],
    ),
)
model = dict(transfer=None, self_supervision=None)
optim_wrapper = dict(
    _delete_=True,
    constructor='mmext.GANOptimWrapperConstructor',
    generator=dict(optimizer=dict(type='Adam', lr=1e-3, betas=(0.0, 0.9))),
    discriminator=dict(optimizer=dict(type='Adam', lr=2e-3, betas=(0.0, 0.9))),
)
train_dataloader = dict(
    sampler=dict(source_ratio=[1]),
    dataset=dict(datasets=[everything]),
)
