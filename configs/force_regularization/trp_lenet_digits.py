# LeNet on digits with trained rank pruning, the baseline.
_base_ = './lenet_digits.py'

trp = dict(type='mmext.TrainedRankPruningHook', nuclear_weight=3e-4)
custom_hooks = [*_base_.custom_hooks, trp]
