# CTF and self-supervision on 1,000 Chinese characters; about an hour on a CPU core. Train the
# classifier that measures first: mmext train configs/ctf_gan/extractor_glyphs1000.py
_base_ = ['_base_/glyphs.py', '_base_/small_gan.py']

model = dict(
    generator=dict(
        output_scale=32,
        num_classes=1000,
        channels_cfg=[4, 2, 1],
        class_size=64,
    ),
    discriminator=dict(
        input_scale=32,
        num_classes=1000,
        downsample_cfg=[True, True, True],
        # Summed over positions, its features do not tell 1,000 characters apart.
        pooling='none',
    ),
    transfer=dict(scales=(8, 16)),
    # The projection alone learns no classes in this time.
    auxiliary_classifier=dict(disc_weight=1.0, gen_weight=1.0),
    ema=dict(momentum=0.005),
)
optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=5e-4)),
    discriminator=dict(optimizer=dict(lr=1e-3)),
    transfer=dict(optimizer=dict(lr=1e-3)),
)
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=3000, val_interval=1000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1, end_factor=0.1, begin=1500, end=3000, by_epoch=False)
]
