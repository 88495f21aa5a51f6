"""The LeNet of the paper's experiments."""

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mmext.registry import MODELS


@MODELS.register_module()
class CaffeLeNet(BaseBackbone):
    """Caffe's LeNet, which the paper's LeNet experiments use: 20 and 50 filters of 5 x 5.

    Max-pooling after each convolution, no nonlinearity but one ReLU after the 500 features. For
    28 x 28 images. MMPretrain's ``LeNet5`` is the narrower original.

    Args:
        in_channels: Channels of the image, >= 1.

    Example:
        >>> backbone = dict(type='mmext.CaffeLeNet')
    """

    def __init__(self, in_channels: int = 1, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(50 * 4 * 4, 500)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Features of shape (B, 500) for images of shape (B, in_channels, 28, 28)."""
        x = self.pool(self.conv2(self.pool(self.conv1(x))))
        return (self.fc(x.flatten(1)).relu(),)
