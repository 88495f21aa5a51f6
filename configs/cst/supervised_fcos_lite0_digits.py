# The labelled images alone: 8 of 100 per step, as many as CST's two students see.
_base_ = ['./_base_/supervised_fcos_lite0.py', '../_base_/datasets/large_digit_scenes.py']
