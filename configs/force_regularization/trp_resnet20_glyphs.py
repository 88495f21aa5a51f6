# ResNet-20 with trained rank pruning, the baseline.
_base_ = './resnet20_glyphs.py'

trp = dict(
    type='mmext.TrainedRankPruningHook',
    nuclear_weight=3e-3,
    exclude=[r'^backbone\.conv1$', 'downsample'],
)
custom_hooks = [*_base_.custom_hooks, trp]
