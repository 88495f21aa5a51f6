# TernGrad with Adam.
_base_ = './_base_/lenet5_digits.py'

optim_wrapper = dict(
    type='mmext.TernGradOptimWrapper',
    clip_factor=2.5,
    optimizer=dict(_delete_=True, type='Adam', lr=0.001),
)
