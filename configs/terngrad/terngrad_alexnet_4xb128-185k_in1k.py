# AlexNet, 4 workers.
_base_ = './terngrad_alexnet_2xb128-370k_in1k.py'

train_cfg = dict(max_iters=185000)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = dict(end=185000)
auto_scale_lr = dict(base_batch_size=512)
