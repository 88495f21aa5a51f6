"""The thin ResNets of CIFAR, which MMPretrain lacks."""

from typing import Any, ClassVar

from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock

from mmext.registry import MODELS


@MODELS.register_module()
class CifarResNet(ResNet_CIFAR):
    """ResNet-20, 32, 44, 56, 110 for 32x32 images: three stages of basic blocks (arXiv 1512.03385).

    Args:
        depth (int): 20, 32, 44, 56 or 110. SmoothOut's experiments have 44 (0.66 million
            parameters), the smoothing literature 110 (1.7 million).
        **kwargs: As in MMPretrain's ``ResNet_CIFAR``, but for the sizes.

    Example:
        >>> backbone = dict(type='mmext.CifarResNet', depth=44)
    """

    arch_settings: ClassVar[dict] = {
        6 * blocks + 2: (BasicBlock, (blocks,) * 3) for blocks in (3, 5, 7, 9, 18)
    }

    def __init__(self, depth: int = 44, **kwargs: Any) -> None:
        sizes = dict(stem_channels=16, base_channels=16, num_stages=3, out_indices=(2,))
        super().__init__(depth, strides=(1, 2, 2), dilations=(1, 1, 1), **sizes, **kwargs)
