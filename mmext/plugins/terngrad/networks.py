"""Networks of the paper that MMPretrain does not have, as backbones that end in class scores."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS


@MODELS.register_module()
class CifarNet(BaseModule):
    """TensorFlow's CIFAR-10 tutorial network.

    Two convolutions with local response normalisation and hidden layers of 384 and 192 units.

    Args:
        num_classes: Outputs, >= 1.
        size: Height and width of the input, a multiple of 4 (paper: 24).
        init_cfg: MMEngine's initialisation.

    Returns:
        (scores,), float ``(N, num_classes)``.

    Example:
        >>> backbone = dict(type='mmext.CifarNet', num_classes=10)
    """

    def __init__(self, num_classes: int = 10, size: int = 24, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if size < 4 or size % 4:
            raise ValueError(f'size={size} must be a multiple of 4')

        def norm() -> nn.Module:
            # TensorFlow's alpha, 0.001 / 9, is not divided by the window as torch's is.
            return nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, stride=2, padding=1)

        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), pool(), norm(),
            nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), norm(), pool(),
            nn.Flatten(),
            nn.Linear(64 * (size // 4) ** 2, 384), nn.ReLU(),
            nn.Linear(384, 192), nn.ReLU(),
            nn.Linear(192, num_classes),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        """Scores of images ``(N, 3, size, size)``."""
        return (self.layers(inputs),)


@MODELS.register_module()
class BNAlexNet(BaseModule):
    """AlexNet in one tower with batch norm before every ReLU and a chosen dropout.

    The paper trains AlexNet with batch norm and halves dropout or less under TernGrad; where the
    norms stand is ours.

    Args:
        num_classes: Outputs, >= 1.
        dropout: Share of dropped hidden units, in [0, 1) (paper: 0.5 for float, 0.2 for TernGrad).
        init_cfg: MMEngine's initialisation.

    Returns:
        (scores,), float ``(N, num_classes)``.

    Example:
        >>> backbone = dict(type='mmext.BNAlexNet', dropout=0.2)
    """

    def __init__(
        self, num_classes: int = 1000, dropout: float = 0.5, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)

        def conv(inputs: int, outputs: int, kernel: int, **kwargs: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, kernel, bias=False, **kwargs)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

        def dense(inputs: int, outputs: int) -> list[nn.Module]:
            norm = nn.BatchNorm1d(outputs)
            return [nn.Linear(inputs, outputs, bias=False), norm, nn.ReLU(inplace=True),
                    nn.Dropout(dropout)]  # fmt: skip

        self.features = nn.Sequential(
            *conv(3, 96, 11, stride=4, padding=2), nn.MaxPool2d(3, 2),
            *conv(96, 256, 5, padding=2), nn.MaxPool2d(3, 2),
            *conv(256, 384, 3, padding=1),
            *conv(384, 384, 3, padding=1),
            *conv(384, 256, 3, padding=1), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.classifier = nn.Sequential(*dense(256 * 6 * 6, 4096), *dense(4096, 4096))
        self.fc = nn.Linear(4096, num_classes)

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        """Scores of images ``(N, 3, 224, 224)``."""
        return (self.fc(self.classifier(torch.flatten(self.features(inputs), 1))),)
