# CTF and self-supervision on 70 % of the digits: some ten minutes on a CPU core. Train the
# classifier that measures first: python tools/train.py configs/ctf_gan/extractor_digits.py
_base_ = ['_base_/digits.py', '_base_/gan_runtime.py']

# 7 x 7 and 14 x 14 are to 28 pixels what 8 x 8 and 16 x 16 are to 32.
# A weaker discriminator lets the generator forget the noise: one picture per class.
model = dict(
    type='mmext.CTFGAN',
    generator=dict(
        type='mmext.SNGANGenerator',
        output_scale=28,
        input_scale=7,
        num_classes=10,
        base_channels=16,
        channels_cfg=[2, 1],
        out_channels=1,
        noise_size=32,
        class_size=16,
    ),
    discriminator=dict(
        type='mmext.ProjDiscriminator',
        input_scale=28,
        num_classes=10,
        base_channels=24,
        channels_cfg=[1, 2, 4],
        input_channels=1,
    ),
    transfer=dict(type='mmext.TransferNet', scales=(7, 14), base_channels=8),
    discriminator_steps=2,
    self_supervision=dict(disc_weight=1.0, gen_weight=0.2),
    ctf=dict(ctf_source='generated'),
    ema=dict(momentum=0.01),
)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=5e-4)),
    discriminator=dict(optimizer=dict(lr=1e-3)),
    transfer=dict(optimizer=dict(lr=1e-3)),
)
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=2000, val_interval=500)
param_scheduler = [dict(type='LinearLR', start_factor=1, end_factor=0.1, begin=1000, end=2000,
                        by_epoch=False)]  # fmt: skip
