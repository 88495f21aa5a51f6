# CTF and self-supervision on the 3,755 characters of GB2312 level 1, for a GPU.
_base_ = 'ctf-gan-ssl_glyphs1000.py'

classes = dict(classes=3755, num_samples=20 * 3755)
model = dict(
    generator=dict(
        num_classes=3755,
        base_channels=256,
        channels_cfg=[1, 1, 1],
        noise_size=128,
        class_size=128,
    ),
    discriminator=dict(
        num_classes=3755,
        base_channels=128,
        channels_cfg=[1, 1, 2, 2],
        downsample_cfg=[True, True, True, False],
    ),
    transfer=dict(base_channels=32),
    ema=dict(momentum=0.001),
)
rate = dict(lr=2e-4)
optim_wrapper = dict(
    generator=dict(optimizer=rate),
    discriminator=dict(optimizer=rate),
    transfer=dict(optimizer=rate),
)
train_dataloader = dict(
    num_workers=4,
    dataset=dict(
        datasets=[
            dict(
                type='mmext.HQSubset',
                part='hq',
                hq_ratio=0.7,
                dataset=dict(_base_.glyphs, **classes),
            ),
            dict(
                type='mmext.HQSubset',
                part='lq',
                hq_ratio=0.7,
                lq_ratio=0.1,
                dataset=dict(_base_.glyphs, **classes),
            ),
        ]
    ),
)
held_out = dict(classes=3755, num_samples=2 * 3755)
val_dataloader = dict(dataset=held_out)
test_dataloader = dict(dataset=held_out)
extractor = dict(
    config='mmext::ctf_gan/extractor_glyphs3755.py',
    checkpoint='work_dirs/extractor_glyphs3755/epoch_8.pth',
)
val_evaluator = dict(extractor=extractor)
test_evaluator = dict(extractor=extractor)
train_cfg = dict(max_iters=100000, val_interval=10000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1, end_factor=0.01, begin=50000, end=100000, by_epoch=False)
]
