"""A small divergence of features and predictions together."""

from collections.abc import Sequence

from torch import Tensor

from mmext.registry import MODELS

from .domain_loss import Domain, DomainLoss
from .functional import ALPHAS, jmmd
from .mkmmd_loss import check_kernels


@MODELS.register_module()
class JMMDLoss(DomainLoss):
    """Joint maximum mean discrepancy of features and class probabilities (JAN, arXiv 1605.06636).

    Args:
        weight: Of the loss (JAN: 1).
        schedule: See :func:`.functional.ramp`.
        alpha: See :func:`.functional.ramp`.
        warmup: See :func:`.functional.ramp`.
        begin: See :func:`.functional.ramp`.
        alphas: Widths of the kernels of the features, see :class:`MKMMDLoss`.
        sigma: Width of the kernel of the probabilities, > 0 (JAN's code: 0.92).
        estimator: 'quadratic' or 'linear'.

    Raises:
        ValueError: An argument is out of range, or a batch has fewer than two samples of a domain.

    Example:
        >>> da_losses = dict(jmmd=dict(type='mmext.JMMDLoss', schedule='sigmoid'))

    Cost: as :class:`MKMMDLoss`.
    """

    title = 'jmmd'

    def __init__(
        self,
        weight: float = 1.0,
        schedule: str = 'constant',
        alpha: float = 10.0,
        warmup: float = 1.0,
        begin: float = 0.0,
        alphas: Sequence[float] = ALPHAS,
        sigma: float = 0.92,
        estimator: str = 'quadratic',
    ) -> None:
        super().__init__(weight, schedule, alpha, warmup, begin)
        if not sigma > 0:
            raise ValueError(f'sigma={sigma} must be above 0')
        self.alphas = check_kernels(alphas, estimator)
        self.sigma = sigma
        self.estimator = estimator

    def compute(self, source: Domain, target: Domain, progress: float) -> dict[str, Tensor]:
        """Loss, and the discrepancy itself."""
        pair = [(domain.features, domain.logits.softmax(1)) for domain in (source, target)]
        value = jmmd(pair[0], pair[1], self.alphas, self.sigma, self.estimator)
        return {'loss': self.weighted(value, progress), 'discrepancy': value.detach()}
