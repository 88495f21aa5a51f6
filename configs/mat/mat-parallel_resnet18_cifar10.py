# Parallel MAT on CIFAR-10: a network per strength, combined by their mean probability.
_base_ = 'mat-mixed_resnet18_cifar10.py'

model = dict(structure='parallel', combine='mean_prob')
