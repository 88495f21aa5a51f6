# The labelled images alone, the same detector and schedule as CST.
_base_ = [
    '../../_base_/models/fcos_lite0.py',
    '../../_base_/schedules/lite0_950it.py',
    '../../_base_/default_runtime.py',
]

model = _base_.detector
optim_wrapper = dict(clip_grad=dict(max_norm=10))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmext.AutocastHook'),
    dict(type='mmext.ChannelsLastHook'),
]
