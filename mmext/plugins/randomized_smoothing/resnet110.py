"""The CIFAR-10 network of the smoothing literature."""

from typing import ClassVar

from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock

from mmext.registry import MODELS


@MODELS.register_module()
class ResNet110(ResNet_CIFAR):
    """ResNet-110 for 32x32 images (arXiv 1512.03385): three stages of 18 basic blocks.

    16, 32 and 64 channels, 1.7 million parameters. MMPretrain's ``ResNet_CIFAR`` has the wider
    four-stage networks only. Arguments are those of ``ResNet_CIFAR`` but for the sizes.

    Example:
        >>> backbone = dict(type='mmext.ResNet110')
    """

    arch_settings: ClassVar[dict] = {110: (BasicBlock, (18, 18, 18))}

    def __init__(self, **kwargs) -> None:
        super().__init__(
            depth=110,
            num_stages=3,
            stem_channels=16,
            base_channels=16,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
            **kwargs,
        )
