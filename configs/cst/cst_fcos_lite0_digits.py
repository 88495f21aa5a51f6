# Cycle self-training on large digit scenes, 100 labelled and 1,900 unlabelled images; minutes on a
# CPU.
_base_ = ['./_base_/cst_fcos_lite0.py', '../_base_/datasets/large_digit_scenes_semi.py']
