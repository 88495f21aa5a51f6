# CTF-GAN with self-supervision for small grey images, minutes to an hour on a CPU core.
_base_ = 'gan_runtime.py'

model = dict(
    type='mmext.CTFGAN',
    generator=dict(type='mmext.SNGANGenerator', base_channels=16, out_channels=1, noise_size=32),
    discriminator=dict(
        type='mmext.ProjDiscriminator',
        base_channels=24,
        channels_cfg=[1, 2, 4],
        input_channels=1,
    ),
    transfer=dict(type='mmext.TransferNet', base_channels=8),
    discriminator_steps=2,
    self_supervision=dict(disc_weight=1.0, gen_weight=0.2),
    ctf=dict(ctf_source='generated'),
)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=1e-3)),
    discriminator=dict(optimizer=dict(lr=2e-3)),
    transfer=dict(optimizer=dict(lr=2e-3)),
)
