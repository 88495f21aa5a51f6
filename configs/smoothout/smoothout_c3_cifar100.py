# SmoothOut with Keskar's C3, which is C1 on CIFAR-100.
_base_ = 'smoothout_c1_cifar10.py'

data_preprocessor = dict(
    num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418]
)
model = dict(data_preprocessor=data_preprocessor, head=dict(num_classes=100))
data = dict(type='CIFAR100', data_root='data/cifar100', download=False)
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
