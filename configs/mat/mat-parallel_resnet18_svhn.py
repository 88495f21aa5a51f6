# Parallel MAT on SVHN: a network per strength, combined by their mean probability.
_base_ = 'mat-mixed_resnet18_svhn.py'

model = dict(structure='parallel', combine='mean_prob')
