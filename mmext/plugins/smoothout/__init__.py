"""SmoothOut: smoothing out sharp minima to improve generalisation (arXiv 1805.07898).

Every gradient is taken at weights with fresh uniform noise, which is taken out again before the
update, so training descends the loss averaged over a box around the weights, in which sharp
minima vanish; AdaSmoothOut scales the noise to the norm of each filter. Written from the abstract
and the author's published options; the exact restore, a stream of noise per rank and micro-batch,
the mixture with clean gradients and the renewed batch-norm statistics are ours.
"""

from .hook import SmoothOutHook
from .keskar_net import KeskarC1
from .perturbation import select_parameters
from .recalibration import recalibrate_bn
from .sam_hook import SAMHook
from .sharpness_hook import SharpnessHook

__all__ = [
    'KeskarC1',
    'SAMHook',
    'SharpnessHook',
    'SmoothOutHook',
    'recalibrate_bn',
    'select_parameters',
]
