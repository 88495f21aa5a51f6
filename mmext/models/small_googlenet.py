"""GoogLeNet's modules for images of 28 or 32 pixels."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn
from torchvision.models.googlenet import Inception

from mmext.registry import MODELS


@MODELS.register_module()
class SmallGoogLeNet(BaseBackbone):
    """A 3x3 convolution and three of torchvision's Inception modules at strides 2, 4 and 4.

    The layer table is ours: 0.09 million parameters, outputs of 16, 48 and 192 channels. Inception
    has batch norm, and a 3x3 convolution in the place of the 5x5 one, as in torchvision.

    Args:
        in_channels: Of the images.
        out_indices: Stages whose outputs are returned, of 0 (stride 1), 1 and 2.
        init_cfg: MMEngine's initialisation; default He's.

    Example:
        >>> backbone = dict(type='mmext.SmallGoogLeNet', in_channels=1)
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] = (2,),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='Kaiming', layer='Conv2d'))
        self.out_indices = tuple(out_indices)
        self.stages = nn.ModuleList(
            [
                ConvModule(in_channels, 16, 3, padding=1, norm_cfg=dict(type='BN')),
                nn.Sequential(nn.MaxPool2d(3, 2, padding=1), Inception(16, 12, 12, 20, 4, 8, 8)),
                nn.Sequential(
                    nn.MaxPool2d(3, 2, padding=1),
                    Inception(48, 32, 32, 56, 8, 16, 16),
                    Inception(120, 48, 48, 96, 16, 24, 24),
                ),
            ]
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Images (N, C, H, W) to the outputs of the chosen stages."""
        outputs = []
        for index, stage in enumerate(self.stages):
            inputs = stage(inputs)
            if index in self.out_indices:
                outputs.append(inputs)
        return tuple(outputs)
