# Four virtual workers of 16 images each in one process: bit for bit what four ranks do.
_base_ = './_base_/lenet5_digits.py'

train_dataloader = dict(batch_size=16)
optim_wrapper = dict(
    type='mmext.TernGradOptimWrapper',
    clip_factor=2.5,
    virtual_workers=True,
    accumulative_counts=4,
)
