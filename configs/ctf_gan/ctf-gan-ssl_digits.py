# CTF and self-supervision on 70 % of the digits: some ten minutes on a CPU core. Train the
# classifier that measures first: mmext train configs/ctf_gan/extractor_digits.py
_base_ = ['_base_/digits.py', '_base_/small_gan.py']

# 7 x 7 and 14 x 14 are to 28 pixels what 8 x 8 and 16 x 16 are to 32.
# A weaker discriminator lets the generator forget the noise: one picture per class.
model = dict(
    generator=dict(
        output_scale=28,
        input_scale=7,
        num_classes=10,
        channels_cfg=[2, 1],
        class_size=16,
    ),
    discriminator=dict(
        input_scale=28,
        num_classes=10,
    ),
    transfer=dict(scales=(7, 14)),
    ema=dict(momentum=0.01),
)
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=2000, val_interval=500)
param_scheduler = [dict(type='LinearLR', start_factor=1, end_factor=0.1, begin=1000, end=2000,
                        by_epoch=False)]  # fmt: skip
