# CTF and self-supervision on 1,000 Chinese characters; about an hour on a CPU core. Train the
# classifier that measures first: python tools/train.py configs/ctf_gan/extractor_glyphs1000.py
_base_ = ['_base_/glyphs.py', '_base_/gan_runtime.py']

model = dict(
    type='mmext.CTFGAN',
    generator=dict(
        type='mmext.SNGANGenerator',
        output_scale=32,
        num_classes=1000,
        base_channels=16,
        channels_cfg=[4, 2, 1],
        out_channels=1,
        noise_size=32,
        class_size=64,
    ),
    discriminator=dict(
        type='mmext.ProjDiscriminator',
        input_scale=32,
        num_classes=1000,
        base_channels=24,
        channels_cfg=[1, 2, 4],
        downsample_cfg=[True, True, True],
        input_channels=1,
    ),
    transfer=dict(type='mmext.TransferNet', scales=(8, 16), base_channels=8),
    discriminator_steps=2,
    self_supervision=dict(disc_weight=1.0, gen_weight=0.2),
    ctf=dict(ctf_source='generated'),
    ema=dict(momentum=0.005),
)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=5e-4)),
    discriminator=dict(optimizer=dict(lr=1e-3)),
    transfer=dict(optimizer=dict(lr=1e-3)),
)
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=4000, val_interval=1000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1, end_factor=0.1, begin=2000, end=4000, by_epoch=False)
]
