"""TernGrad: data-parallel training with ternary gradients (arXiv 1705.07878).

Every worker sends -1, 0 or 1 for an element of its gradient, drawn so that the mean is right, and
one scaler for a layer. Clipping to 2.5 standard deviations, layer-wise and shared scalers are the
paper's. The wire format, the transports between ranks, the kernels and the stateless random
numbers are ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'ErrorFeedbackHook': 'error_feedback_hook',
        'TernGradAmpOptimWrapper': 'optim_wrapper',
        'TernGradOptimWrapper': 'optim_wrapper',
    },
)
