# AdaSmoothOut: the noise of each filter is a share of the filter's norm.
_base_ = 'smoothout_c1_digits.py'

custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type='mmext.SmoothOutHook', strength=0.1, adapt='filter', recalibrate_bn=30),
]
