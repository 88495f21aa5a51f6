"""Equal second moments of the features."""

from torch import Tensor

from mmext.registry import MODELS

from .domain_loss import Domain, DomainLoss
from .functional import coral


@MODELS.register_module()
class CORALLoss(DomainLoss):
    """Distance of the covariances of the features (Deep CORAL, arXiv 1607.01719).

    Arguments are those of :class:`~mmext.plugins.conv_m.domain_loss.DomainLoss`.

    Raises:
        ValueError: An argument is out of range, or a batch has fewer than two samples of a domain.

    Example:
        >>> da_losses = dict(coral=dict(type='mmext.CORALLoss', weight=10.0))

    Cost: O(N D^2).
    """

    title = 'coral'

    def compute(self, source: Domain, target: Domain, progress: float) -> dict[str, Tensor]:
        """Loss, and the distance itself."""
        value = coral(source.features, target.features)
        return {'loss': self.weighted(value, progress), 'discrepancy': value.detach()}
