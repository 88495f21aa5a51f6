# ImageNet by iterations, as the paper counts them.
_base_ = ['../../_base_/datasets/imagenet.py', '../../_base_/cls_runtime.py']

train_dataloader = dict(
    batch_size=128, persistent_workers=True, sampler=dict(type='InfiniteSampler')
)
val_dataloader = dict(batch_size=128, persistent_workers=True)
test_dataloader = val_dataloader
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=10000, max_keep_ckpts=2),
)
log_processor = dict(type='LogProcessor', by_epoch=False)
