# ResNet-20 on the JPEG copies of CIFAR-10; one and a half hours on a CPU core.
_base_ = ['../_base_/datasets/cifar10_jpeg.py', './_base_/sgd_cpu.py']

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='mmext.CifarResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
# All 50,000 training images: nothing was chosen on the validation split here.
train_dataloader = dict(dataset=dict(per_class=None))
epochs = 70
optim_wrapper = dict(optimizer=dict(lr=0.1))
train_cfg = dict(max_epochs=epochs)
param_scheduler = dict(total_steps=epochs)
