# Parallel MAT: a network per strength, combined by their mean probability.
_base_ = 'mat-mixed_lenet_digits.py'

model = dict(structure='parallel', combine='mean_prob')
