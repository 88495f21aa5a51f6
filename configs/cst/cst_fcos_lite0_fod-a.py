# Cycle self-training on FOD-A, 300 labelled and 2,700 unlabelled photos; minutes on a CPU.
_base_ = ['./_base_/cst_fcos_lite0.py', '../_base_/datasets/fod_a_semi.py']

model = dict(detector=dict(bbox_head=dict(num_classes=31)))
