# SmoothOut with ResNet-44 on CIFAR-10: the authors' 200 epochs, learning rate and weight decay;
# the strength is ours.
_base_ = 'smoothout_c1_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.CifarResNet', depth=44),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=64),
)
