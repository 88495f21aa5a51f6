# The same project with three plugins: no custom_imports, no other scope, no other tools.
_base_ = './lenet5_digits.py'

optim_wrapper = dict(type='mmext.TernGradOptimWrapper')
custom_hooks = [
    dict(type='mmext.SmoothOutHook', strength=0.006),
    dict(type='mmext.ForceRegularizationHook', strength=0.1, mode='adaptive'),
]
