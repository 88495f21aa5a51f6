# Parallel MAT on MNIST: a network per strength, combined by their mean probability.
_base_ = 'mat-mixed_lenet5_mnist.py'

model = dict(structure='parallel', combine='mean_prob')
