# 180k iterations on 8 GPUs. Learning-rate rule: lr = 0.01 for 8 labelled images of each student per
# step over all GPUs, in proportion to that number; --auto-scale-lr does it for other GPU counts.
_base_ = ['../../_base_/default_runtime.py']

max_iters = 180000
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=max_iters, val_interval=10000)
val_cfg = dict(type='mmext.CycleValLoop', networks=['teacher1', 'teacher2'])
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iters,
        by_epoch=False,
        milestones=[120000, 160000],
        gamma=0.1,
    ),
]
# 8 GPUs x 6 images, 1 + 1 of them labelled.
auto_scale_lr = dict(enable=False, base_batch_size=48)
default_hooks = dict(checkpoint=dict(interval=10000))
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmext.CycleTeacherHook',
        momentum=0.0004,
        burn_in=2000,
        ramp_up=1000,
        clip_grad=dict(max_norm=35),
    ),
    dict(type='mmext.DistributionConsistencyHook'),
]
