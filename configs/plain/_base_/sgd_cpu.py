# Networks without any plugin: SGD with one cycle, fast on a CPU (bfloat16, channels_last).
_base_ = '../../_base_/cls_runtime.py'

train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
)
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=0.1,
    total_steps=20,
    pct_start=0.2,
    by_epoch=True,
    convert_to_iter_based=True,
)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmext.AutocastHook'),
    dict(type='mmext.ChannelsLastHook'),
]
auto_scale_lr = dict(base_batch_size=128)
