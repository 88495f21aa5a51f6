"""SmoothOut: smoothing out sharp minima to improve generalisation (arXiv 1805.07898).

Every gradient is taken at weights with fresh uniform noise, which is taken out again before the
update, so training descends the loss averaged over a box around the weights, in which sharp
minima vanish; AdaSmoothOut scales the noise to the norm of each filter. Written from the abstract
and the author's published options; the exact restore, a stream of noise per rank and micro-batch,
the mixture with clean gradients and the renewed batch-norm statistics are ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'KeskarC1': 'keskar_net',
        'SAMHook': 'sam_hook',
        'SharpnessHook': 'sharpness_hook',
        'SmoothOutHook': 'hook',
        'recalibrate_bn': 'recalibration',
        'select_parameters': 'perturbation',
    },
)
