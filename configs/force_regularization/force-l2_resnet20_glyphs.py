# ResNet-20 with L2 force; the first convolution and the 1x1 shortcuts feel none, as the author's.
_base_ = './resnet20_glyphs.py'

force = dict(
    type='mmext.ForceRegularizationHook',
    strength=3.5e-4,
    kind='l2',
    exclude=[r'^backbone\.conv1$', 'downsample'],
)
custom_hooks = [*_base_.custom_hooks, force]
