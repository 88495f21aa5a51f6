# ResNet-18 on SVHN, to be attacked with mmext attack.
_base_ = [
    '../_base_/models/resnet18_cifar.py',
    '../_base_/datasets/svhn.py',
    '../_base_/schedules/cifar_100e.py',
    '../_base_/cls_runtime.py',
]

model = dict(data_preprocessor=_base_.data_preprocessor, head=dict(num_classes=10))
