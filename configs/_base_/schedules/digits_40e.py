# 40 epochs of 17 iterations, AdamW with one cycle; seconds on a CPU.
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=20)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.01))
param_scheduler = [
    dict(
        type='OneCycleLR', eta_max=0.004, total_steps=40, by_epoch=True, convert_to_iter_based=True
    )
]
auto_scale_lr = dict(base_batch_size=64)
