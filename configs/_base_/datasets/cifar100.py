# CIFAR-100, split as cifar10.py with 450 and 50 images a class; put the official python version
# into data/cifar100.
_base_ = 'cifar10.py'

data_preprocessor = dict(
    num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418]
)
data = dict(type='CIFAR100', data_root='data/cifar100')
train_dataloader = dict(dataset=dict(dataset=data, per_class=450))
val_dataloader = dict(dataset=dict(dataset=data, per_class=-50))
test_dataloader = dict(dataset=dict(dataset=data))
