# SN-GAN with projection at 32 x 32 (channels as in mmagic's configs), with CTF and rotations.
model = dict(
    type='mmext.CTFGAN',
    generator=dict(type='mmext.SNGANGenerator', output_scale=32, num_classes=10, base_channels=256),
    discriminator=dict(
        type='mmext.ProjDiscriminator', input_scale=32, num_classes=10, base_channels=128
    ),
    transfer=dict(type='mmext.TransferNet', scales=(8, 16), base_channels=32),
    discriminator_steps=5,
    self_supervision=dict(disc_weight=1.0, gen_weight=0.2),
    ctf=dict(ctf_source='generated'),
    ema=dict(momentum=1e-4, start_iter=1000),
)
