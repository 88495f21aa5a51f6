# CTF and self-supervision on 70 % of CASIA-HWDB1.0 at 64 x 64: the 3,740 of the 3,755 characters
# of GB2312 level 1 that it has. Put HWDB1.0trn_gnt/ and HWDB1.0tst_gnt/ into data/hwdb.
_base_ = ['_base_/hq_lq.py', '_base_/sngan_32.py', '_base_/gan_runtime.py']

hwdb = dict(type='mmext.CASIAHWDBDataset', data_root='data/hwdb', version='1.0', size=64)
pack = [dict(type='mmext.Degrade', shrink=(2, 4)), dict(type='mmext.PackGANInputs')]
index_file = 'data/ctf_gan/hwdb1.0_hq70.json'
source = dict(split='train', pipeline=pack, **hwdb)
hq = dict(type='mmext.HQSubset', part='hq', hq_ratio=0.7, index_file=index_file, dataset=source)
lq = dict(hq, part='lq', lq_ratio=0.1)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(batch_size=64),
    dataset=dict(datasets=[hq, lq]),
)
# The first 50,000 test images, every class about 13 times.
val_dataloader = dict(
    batch_size=250,
    num_workers=4,
    dataset=dict(split='test', indices=50000, pipeline=[dict(type='mmext.PackGANInputs')], **hwdb),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmext.GenerativeMetrics',
    split='test, first 50,000',
    extractor=dict(
        type='classifier',
        config='mmext::ctf_gan/extractor_hwdb1.0.py',
        checkpoint='work_dirs/extractor_hwdb1.0/epoch_8.pth',
    ),
)
test_evaluator = val_evaluator
model = dict(
    generator=dict(
        output_scale=64, num_classes=3740, base_channels=32, out_channels=1, class_size=128
    ),
    discriminator=dict(input_scale=64, num_classes=3740, base_channels=32, input_channels=1),
    transfer=dict(scales=(8, 16), base_channels=16),
    auxiliary_classifier=dict(disc_weight=1.0, gen_weight=1.0),
    discriminator_steps=2,
)
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=400000, val_interval=20000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1, end_factor=1e-2, begin=200000, end=400000, by_epoch=False)
]
# No best checkpoint: its FID would have been chosen by the images that it is measured on.
default_hooks = dict(checkpoint=dict(interval=20000), logger=dict(interval=500))
