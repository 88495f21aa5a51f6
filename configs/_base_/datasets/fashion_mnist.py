# Fashion-MNIST as 32 x 32 grey images, kept in memory, split as MNIST is:
# `mmext data fashion-mnist` prepares data/fashion-mnist.
_base_ = 'mnist.py'

data_preprocessor = dict(mean=[72.73], std=[86.25])
data = dict(type='FashionMNIST', data_root='data/fashion-mnist')
train_dataloader = dict(dataset=dict(dataset=data))
val_dataloader = dict(dataset=dict(dataset=data))
test_dataloader = dict(dataset=dict(dataset=data))
