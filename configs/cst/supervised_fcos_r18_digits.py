# The labelled images alone: 4 of 40 per step, the same detector and schedule as CST.
_base_ = [
    '../_base_/models/fcos_r18_digits.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/digits_1400it.py',
    '../_base_/default_runtime.py',
]

model = _base_.detector
optim_wrapper = dict(clip_grad=dict(max_norm=10))
