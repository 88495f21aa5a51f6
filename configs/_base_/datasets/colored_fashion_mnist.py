# Coloured Fashion-MNIST: its garments in colours of their own on coloured grounds, 32 x 32: python
# mmext data colored_fashion_mnist. The same classes and splits as Fashion-MNIST.
_base_ = ['./mnist_m.py']

data_root = 'data/colored_fashion_mnist'
data_preprocessor = dict(mean=[117.1, 116.4, 116.9], std=[61.6, 64.9, 60.2])
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
