# LeNet on digits with L1 force.
_base_ = './lenet_digits.py'

force = dict(type='mmext.ForceRegularizationHook', strength=1e-3, kind='l1')
custom_hooks = [*_base_.custom_hooks, force]
