# ConvMNet on ImageNet-1k, 224 pixels, 90 epochs, 8 GPUs; the weights that the Office configs start
# from. The schedule is ours.
_base_ = ['../_base_/datasets/imagenet.py', '../_base_/cls_runtime.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmext.ConvMNet', arch='4p1m'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=1024, topk=(1, 5)),
)
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, T_max=85, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=256)
