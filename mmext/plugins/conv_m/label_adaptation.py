"""Adapted label prediction."""

from mmengine.model.weight_init import normal_init
from torch import Tensor, nn

from mmext.registry import MODELS

from .domain_loss import Domain, DomainLoss
from .functional import entropy


@MODELS.register_module()
class LabelAdaptation(DomainLoss):
    """Residual classifier of the source and low entropy of the target (RTN, arXiv 1602.04433).

    The head is the target's classifier f_T, which predictions use; the source learns with
    ``f_S = f_T + r(f_T)``, where r is two small layers. The loss is the entropy of f_T on the
    target. Before ``begin`` there is neither (ours): f_T itself learns the source. A model that
    calls the whole target one class has no entropy: use it together with a loss that brings the
    domains together, let it begin late where the network starts from scratch (RTN starts from a
    trained one), and watch ``select/information``.

    Args:
        num_classes: Outputs of the head; ``mmext.DomainAdaptationClassifier`` knows it.
        weight: Of the entropy (RTN: 0.1).
        schedule: See :func:`.functional.ramp` (RTN: 'sigmoid').
        alpha: See :func:`.functional.ramp` (RTN: 10).
        warmup: See :func:`.functional.ramp` (RTN: 0.1).
        begin: See :func:`.functional.ramp`.
        init_cfg: MMEngine's initialisation; by default normal of deviation 0.01 (RTN's code).

    Raises:
        ValueError: An argument is out of range, or the head has another number of outputs.

    Example:
        >>> da_losses = dict(label=dict(type='mmext.LabelAdaptation', num_classes=31))
    """

    title = 'label'

    def __init__(
        self,
        num_classes: int,
        weight: float = 0.1,
        schedule: str = 'sigmoid',
        alpha: float = 10.0,
        warmup: float = 0.1,
        begin: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, schedule, alpha, warmup, begin, init_cfg)
        self.num_classes = num_classes
        self.residual = nn.Sequential(
            nn.Linear(num_classes, num_classes), nn.ReLU(), nn.Linear(num_classes, num_classes)
        )
        # Nearly no residual at first.
        for layer in self.residual[::2]:
            normal_init(layer, std=0.01)

    def source_logits(self, logits: Tensor, progress: float) -> Tensor:
        """Logits of the source's classifier from those of the target's, ``(M, K)``.

        Args:
            logits: ``(M, K)``.
            progress: Share of the training that is done, in [0, 1].

        Raises:
            ValueError: K is not ``num_classes``.
        """
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f'LabelAdaptation: num_classes={self.num_classes}, the head gives {logits.shape[1]}'
            )
        # Times 0 instead of left out: under DDP every parameter takes part in every step.
        return logits + float(progress >= self.begin) * self.residual(logits)

    def compute(self, source: Domain, target: Domain, progress: float) -> dict[str, Tensor]:
        """Loss, and the entropy itself in nats."""
        value = entropy(target.logits).mean()
        return {'loss': self.weighted(value, progress), 'entropy': value.detach()}
