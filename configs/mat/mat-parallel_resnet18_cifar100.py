# Parallel MAT on CIFAR-100: a network per strength, combined by their mean probability.
_base_ = 'mat-mixed_resnet18_cifar100.py'

model = dict(structure='parallel', combine='mean_prob')
