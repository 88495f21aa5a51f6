# GoogLeNet, 4 workers.
_base_ = './terngrad_googlenet_2xb64-600k_in1k.py'

train_cfg = dict(max_iters=300000)
optim_wrapper = dict(optimizer=dict(lr=0.08))
param_scheduler = dict(end=300000)
auto_scale_lr = dict(base_batch_size=256)
