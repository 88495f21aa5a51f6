"""GoogLeNet, which MMPretrain does not have, as a backbone that ends in class scores."""

from mmengine.model import BaseModule
from torch import Tensor

from mmext.registry import MODELS


@MODELS.register_module()
class GoogLeNet(BaseModule):
    """torchvision's GoogLeNet (with batch norm) without auxiliary heads, as in the paper.

    Args:
        num_classes: Outputs, >= 1.
        dropout: Share of dropped units before the last layer, in [0, 1) (paper: 0.2 for float,
            0.08 for TernGrad).
        init_cfg: MMEngine's initialisation.

    Returns:
        (scores,), float ``(N, num_classes)``.

    Example:
        >>> backbone = dict(type='mmext.GoogLeNet', dropout=0.08)
    """

    def __init__(
        self, num_classes: int = 1000, dropout: float = 0.2, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        from torchvision.models import googlenet

        # torchvision's own initialisation takes half a minute of scipy.
        self.net = googlenet(
            num_classes=num_classes, aux_logits=False, init_weights=False, dropout=dropout
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        """Scores of images ``(N, 3, H, W)``."""
        return (self.net(inputs),)
