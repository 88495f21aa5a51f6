# ImageNet-1k, 256 images per step, by iterations, as the author's Caffe solvers.
_base_ = ['../../_base_/datasets/imagenet.py', '../../_base_/cls_runtime.py']

train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=10000),
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=256)
