# Keskar's C1 on the JPEG copies of CIFAR-10; ten minutes on a CPU core.
_base_ = ['../_base_/datasets/cifar10_jpeg.py', './_base_/sgd_cpu.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.KeskarC1'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=192),
)
epochs = 16
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(total_steps=epochs)
