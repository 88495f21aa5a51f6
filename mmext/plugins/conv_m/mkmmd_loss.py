"""A small divergence of the features."""

from collections.abc import Sequence

from torch import Tensor

from mmext.registry import MODELS

from .domain_loss import Domain, DomainLoss
from .functional import ALPHAS, ESTIMATORS, mk_mmd

LAYERS = ('features', 'logits')


@MODELS.register_module()
class MKMMDLoss(DomainLoss):
    """Multi-kernel maximum mean discrepancy (DAN, arXiv 1502.02791).

    Args:
        weight: Of the loss (DAN: 1).
        schedule: See :func:`.functional.ramp`.
        alpha: See :func:`.functional.ramp`.
        warmup: See :func:`.functional.ramp`.
        begin: See :func:`.functional.ramp`.
        layers: What is to agree, of 'features' and 'logits'; several are summed (DAN: both).
        alphas: Widths of the Gaussian kernels relative to the mean squared distance, > 0.
        estimator: 'quadratic' or 'linear', both unbiased, see :func:`.functional.mmd`.

    Raises:
        ValueError: An argument is out of range, or a batch has fewer than two samples of a domain.

    Example:
        >>> da_losses = dict(mmd=dict(type='mmext.MKMMDLoss', schedule='sigmoid', warmup=0.1))

    Cost: O(N^2 D) with N samples, O(N D) with 'linear'. Each rank of a distributed training
    compares its own samples.
    """

    title = 'mmd'

    def __init__(
        self,
        weight: float = 1.0,
        schedule: str = 'constant',
        alpha: float = 10.0,
        warmup: float = 1.0,
        begin: float = 0.0,
        layers: Sequence[str] = ('features',),
        alphas: Sequence[float] = ALPHAS,
        estimator: str = 'quadratic',
    ) -> None:
        super().__init__(weight, schedule, alpha, warmup, begin)
        if not layers or not set(layers) <= set(LAYERS) or isinstance(layers, str):
            raise ValueError(f'layers={layers!r} must be a list of {", ".join(LAYERS)}')
        self.layers = tuple(layers)
        self.alphas = check_kernels(alphas, estimator)
        self.estimator = estimator

    def compute(self, source: Domain, target: Domain, progress: float) -> dict[str, Tensor]:
        """Loss, and the discrepancy itself."""
        values = [
            mk_mmd(getattr(source, layer), getattr(target, layer), self.alphas, self.estimator)
            for layer in self.layers
        ]
        value = sum(values[1:], values[0])
        return {'loss': self.weighted(value, progress), 'discrepancy': value.detach()}


def check_kernels(alphas: Sequence[float], estimator: str) -> tuple[float, ...]:
    """Return ``alphas``.

    Raises:
        ValueError: A width is not above 0, or the estimator is unknown.
    """
    if not alphas or not all(alpha > 0 for alpha in alphas):
        raise ValueError(f'alphas={alphas!r} must be widths above 0, at least one')
    if estimator not in ESTIMATORS:
        raise ValueError(f'estimator={estimator!r} must be one of {", ".join(ESTIMATORS)}')
    return tuple(alphas)
