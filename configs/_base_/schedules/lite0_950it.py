# 950 iterations, AdamW, cosine over the second half; minutes on a CPU core.
max_iters = 950
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.01, fused=True),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=475, end=max_iters, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
