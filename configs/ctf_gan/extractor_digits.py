# The classifier whose features measure generated digits; trained on all training digits.
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_40e.py',
    '../_base_/cls_runtime.py',
]

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.StridedLeNet', features=128),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
)
train_dataloader = dict(dataset=dict(size=28))
val_dataloader = dict(dataset=dict(size=28))
test_dataloader = dict(dataset=dict(size=28))
