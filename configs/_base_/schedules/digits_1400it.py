# 1,400 iterations, AdamW, cosine over the last 40 %.
max_iters = 1400
train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=max_iters, val_interval=700)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    # One kernel instead of one for each tensor: a tenth of the time of a step on a CPU.
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.01, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=840, end=1400, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
