# LeNet on MNIST, 64 workers with one image each, the paper's most. In one process:
# optim_wrapper.virtual_workers=True optim_wrapper.accumulative_counts=64, 64 times the iterations.
_base_ = './terngrad_lenet_2xb32-10k_mnist.py'

train_dataloader = dict(batch_size=1)
