"""SqueezeNet's modules for images of 28 or 32 pixels."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from mmext.registry import MODELS


class Fire(nn.Module):
    """1x1 convolution to few channels, then 1x1 and 3x3 ones in parallel (arXiv 1602.07360).

    torchvision's has no normalisation; here each convolution has batch norm.
    """

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        norm = dict(type='BN')
        self.squeeze = ConvModule(in_channels, squeeze, 1, norm_cfg=norm)
        self.expand1x1 = ConvModule(squeeze, expand, 1, norm_cfg=norm)
        self.expand3x3 = ConvModule(squeeze, expand, 3, padding=1, norm_cfg=norm)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 2 * expand, H, W)``."""
        squeezed = self.squeeze(inputs)
        return torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], 1)


@MODELS.register_module()
class SmallSqueezeNet(BaseBackbone):
    """A 3x3 convolution and four Fire modules at strides 2 and 4.

    The layer table is ours: 0.017 million parameters, outputs of 16, 48 and 96 channels.

    Args:
        in_channels: Of the images.
        out_indices: Stages whose outputs are returned, of 0 (stride 1), 1 and 2.
        init_cfg: MMEngine's initialisation. mmcv's blocks start with He's.

    Example:
        >>> backbone = dict(type='mmext.SmallSqueezeNet', in_channels=1)
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] = (2,),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = tuple(out_indices)
        self.stages = nn.ModuleList(
            [
                ConvModule(in_channels, 16, 3, padding=1, norm_cfg=dict(type='BN')),
                nn.Sequential(nn.MaxPool2d(3, 2, padding=1), Fire(16, 6, 12), Fire(24, 8, 24)),
                nn.Sequential(nn.MaxPool2d(3, 2, padding=1), Fire(48, 12, 32), Fire(64, 16, 48)),
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
