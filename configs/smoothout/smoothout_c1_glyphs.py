# SmoothOut on 100 characters in 12 fonts, tested on fonts never seen; half a minute on a CPU.
_base_ = 'smoothout_c1_digits.py'

dataset = dict(
    _delete_=True,
    type='mmext.GlyphDataset',
    classes=100,
    size=16,
    num_samples=3000,
    pipeline=_base_.pipeline,
)
model = dict(
    data_preprocessor=dict(num_classes=100, mean=[38.0], std=[81.0]),
    backbone=dict(widths=(12, 24), features=(128,)),
    head=dict(num_classes=100, in_channels=128),
)
train_dataloader = dict(batch_size=64, dataset=dict(split='train', **dataset))
val_dataloader = dict(dataset=dict(split='val', **{**dataset, 'num_samples': 1000}))
test_dataloader = dict(dataset=dict(split='test', **{**dataset, 'num_samples': 2000}))
train_cfg = dict(max_epochs=12, val_interval=6)
param_scheduler = dict(T_max=12)
