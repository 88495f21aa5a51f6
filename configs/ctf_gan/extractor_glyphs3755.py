# The classifier of extractor_glyphs1000.py for all 3,755 characters of GB2312 level 1.
_base_ = 'extractor_glyphs1000.py'

num_classes = 3755
model = dict(
    data_preprocessor=dict(num_classes=3755),
    backbone=dict(stem_channels=64, base_channels=64),
    head=dict(num_classes=3755, in_channels=512),
)
train_dataloader = dict(dataset=dict(classes=3755, num_samples=20 * 3755))
val_dataloader = dict(dataset=dict(classes=3755, num_samples=2 * 3755))
test_dataloader = dict(dataset=dict(classes=3755, num_samples=2 * 3755))
