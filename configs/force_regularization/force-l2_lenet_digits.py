# LeNet on digits with L2 force; the strength was chosen on the validation split.
_base_ = './lenet_digits.py'

force = dict(type='mmext.ForceRegularizationHook', strength=3e-3, kind='l2')
custom_hooks = [*_base_.custom_hooks, force]
