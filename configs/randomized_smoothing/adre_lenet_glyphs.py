# ADRE on 100 letters and signs in 28 x 28: many classes, so the runner-up is far below the rest.
_base_ = 'adre_lenet_digits.py'

dataset = dict(
    _delete_=True,
    type='mmext.GlyphDataset',
    classes=100,
    size=28,
    num_samples=3000,
    pipeline=_base_.pipeline,
)
model = dict(
    sigma=1.0,
    classifier=dict(
        data_preprocessor=dict(num_classes=100),
        backbone=dict(width=(16, 32), features=256),
        head=dict(num_classes=100, in_channels=256),
    ),
)
train_dataloader = dict(dataset=dict(split='train', **dataset))
val_dataloader = dict(dataset=dict(split='val', **{**dataset, 'num_samples': 500}))
test_dataloader = dict(dataset=dict(split='test', **{**dataset, 'num_samples': 500}))
