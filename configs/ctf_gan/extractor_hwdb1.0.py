# The classifier whose features measure generated handwriting.
_base_ = 'extractor_glyphs3755.py'

hwdb = dict(
    _delete_=True,
    type='mmext.CASIAHWDBDataset',
    data_root='data/hwdb',
    version='1.0',
    size=64,
    pipeline=[dict(type='PackInputs')],
)
model = dict(
    data_preprocessor=dict(num_classes=3740),
    backbone=dict(strides=(1, 2, 2, 2)),
    head=dict(num_classes=3740),
)
train_dataloader = dict(num_workers=4, dataset=dict(split='train', **hwdb))
val_dataloader = dict(num_workers=4, dataset=dict(split='test', **hwdb))
test_dataloader = dict(num_workers=4, dataset=dict(split='test', **hwdb))
