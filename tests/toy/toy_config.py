# ruff: noqa: C408
custom_imports = dict(imports=['toy_least_squares'], allow_failed_imports=False)
default_scope = 'mmengine'

model = dict(type='ToyModel')
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type='ToyDataset'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_dataloader = train_dataloader
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict()
test_evaluator = dict(type='ToyMetric')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
auto_scale_lr = dict(enable=False, base_batch_size=8)
custom_hooks = [dict(type='SaveEveryRank')]
randomness = dict(seed=0)
log_level = 'WARNING'
