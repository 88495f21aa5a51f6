# ADRE at adversarial images (SmoothAdv with adre_weight=0).
_base_ = 'adre_lenet_digits.py'

model = dict(adversarial=dict(eps=1.0, steps=2))
