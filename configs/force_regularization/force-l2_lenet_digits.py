# LeNet on digits with L2 force.
_base_ = './lenet_digits.py'

force = dict(type='mmext.ForceRegularizationHook', strength=1e-3, kind='l2')
custom_hooks = [*_base_.custom_hooks, force]
