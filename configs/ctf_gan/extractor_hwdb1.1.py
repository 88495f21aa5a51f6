# The classifier of extractor_hwdb1.0.py for HWDB1.1.
_base_ = 'extractor_hwdb1.0.py'

model = dict(data_preprocessor=dict(num_classes=3755), head=dict(num_classes=3755))
train_dataloader = dict(dataset=dict(version='1.1'))
val_dataloader = dict(dataset=dict(version='1.1'))
test_dataloader = dict(dataset=dict(version='1.1'))
