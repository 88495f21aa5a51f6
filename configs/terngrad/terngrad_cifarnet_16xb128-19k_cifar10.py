# CifarNet on CIFAR-10, 16 workers.
_base_ = './terngrad_cifarnet_2xb64-300k_cifar10.py'

train_dataloader = dict(batch_size=128)
train_cfg = dict(max_iters=18750, val_interval=1875)
auto_scale_lr = dict(base_batch_size=2048)
