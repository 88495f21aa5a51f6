# LeNet on digits with L1 force. The published strength, 1e-3, is for fifteen times the steps, on
# MNIST; this one was chosen on the validation split.
_base_ = './lenet_digits.py'

force = dict(type='mmext.ForceRegularizationHook', strength=3e-3, kind='l1')
custom_hooks = [*_base_.custom_hooks, force]
