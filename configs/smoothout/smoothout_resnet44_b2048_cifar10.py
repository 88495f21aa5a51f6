# Large-batch SmoothOut: 16 ghost batches of 128, each with noise of its own, learning rate times
# sqrt(16) and gradients clipped at 5, as in the author's code; the strength is ours.
_base_ = 'smoothout_resnet44_cifar10.py'

optim_wrapper = dict(accumulative_counts=16, clip_grad=dict(max_norm=5.0), optimizer=dict(lr=0.4))
auto_scale_lr = dict(base_batch_size=2048)
