# The float baseline of the TernGrad digit configs.
_base_ = './_base_/lenet5_digits.py'
