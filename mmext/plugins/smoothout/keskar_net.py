"""The shallow convolutional networks of the sharp-minima literature."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS


@MODELS.register_module()
class KeskarC1(BaseModule):
    """C1 and C3 of Keskar et al. (arXiv 1609.04836), a small AlexNet with batch norm.

    Convolutions 5x5, each with batch norm, ReLU and max-pooling 3x3 by 2, then dense layers, each
    with batch norm, ReLU and dropout. The defaults are C1 (CIFAR-10) and C3 (CIFAR-100), which
    differ in the classifier alone; smaller widths suit smaller data.

    Args:
        in_channels (int): Channels of the images.
        image_size (int): Height and width of the images, divisible by 2 per convolution.
        widths (sequence of int): Channels of the convolutions.
        features (sequence of int): Sizes of the dense layers.
        dropout (float): Probability of dropping in the dense layers.
        init_cfg (dict, optional): As in MMEngine.

    Example:
        >>> backbone = dict(type='mmext.KeskarC1')
        >>> head = dict(type='LinearClsHead', num_classes=10, in_channels=192)
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        widths: Sequence[int] = (64, 64),
        features: Sequence[int] = (384, 192),
        dropout: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if image_size % 2 ** len(widths):
            raise ValueError(
                f'image_size={image_size} must be divisible by {2 ** len(widths)}: '
                f'{len(widths)} poolings halve it'
            )
        layers: list[nn.Module] = []
        for channels in widths:
            layers += [
                nn.Conv2d(in_channels, channels, 5, padding=2, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, padding=1),
            ]
            in_channels = channels
        size = in_channels * (image_size >> len(widths)) ** 2
        layers.append(nn.Flatten())
        for number in features:
            layers += [
                nn.Linear(size, number, bias=False),
                nn.BatchNorm1d(number),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
            ]
            size = number
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map images ``(N, C, H, W)`` to a tuple of features ``(N, features[-1])``."""
        return (self.layers(x),)
