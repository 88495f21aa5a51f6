# The labelled tenth of FOD-A alone: 8 of 300 photos per step, as many as CST's two students see.
_base_ = ['./_base_/supervised_fcos_lite0.py', '../_base_/datasets/fod_a_labelled.py']

model = dict(bbox_head=dict(num_classes=31))
