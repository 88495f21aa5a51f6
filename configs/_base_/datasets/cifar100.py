# CIFAR-100; put the official python version into data/cifar100.
_base_ = 'cifar10.py'

data_preprocessor = dict(
    num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418]
)
data = dict(type='CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
