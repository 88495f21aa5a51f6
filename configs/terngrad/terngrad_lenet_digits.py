# TernGrad with LeNet-5 on digits; one worker here, N with `tools/dist_train.sh <this file> N`.
_base_ = './_base_/lenet5_digits.py'

optim_wrapper = dict(type='mmext.TernGradOptimWrapper', clip_factor=2.5)
