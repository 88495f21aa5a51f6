# AlexNet, 8 workers.
_base_ = './terngrad_alexnet_2xb128-370k_in1k.py'

train_cfg = dict(max_iters=92500)
optim_wrapper = dict(optimizer=dict(lr=0.04))
param_scheduler = dict(end=92500)
auto_scale_lr = dict(base_batch_size=1024)
