"""Projection discriminator with heads for the rotation task and for the classes."""

from collections.abc import Sequence
from typing import NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS

from .functional import ROTATIONS
from .layers import DiscriminatorBlock, normalised, xavier

#: input_scale -> factors of ``base_channels`` and which blocks halve the resolution (SN-GAN's and
#: mmagic's configs, 28: ours).
BLOCKS: dict[int, tuple[tuple[float, ...], tuple[bool, ...]]] = {
    28: ((1, 1, 1), (True, True, False)),
    32: ((1, 1, 1, 1), (True, True, False, False)),
    48: ((1, 2, 4, 8, 16), (True, True, True, True, False)),
    64: ((1, 2, 4, 8, 16), (True, True, True, True, False)),
    128: ((1, 2, 4, 8, 16, 16), (True, True, True, True, True, False)),
}


class Judgement(NamedTuple):
    """What a discriminator says of N images.

    Attributes:
        scores: (N,), higher for real.
        rotation: Logits (N, 4) of the quarter turns; None without that head.
        classes: Logits (N, num_classes); None without that head.
    """

    scores: Tensor
    rotation: Tensor | None
    classes: Tensor | None


@MODELS.register_module()
class ProjDiscriminator(BaseModule):
    """ResNet discriminator with class projection (arXiv 1802.05637) and spectral norm.

    One forward gives all heads, so that DistributedDataParallel sees every parameter each time.
    The names of the arguments are mmagic's, but for the last three.

    Args:
        input_scale: Height and width of the images in pixels.
        num_classes: 0: unconditional.
        base_channels: Times ``channels_cfg`` gives the channels of the blocks.
        input_channels: Of the images, 1 or 3.
        channels_cfg: A factor per block; by default that of :data:`BLOCKS`.
        downsample_cfg: For each block whether it halves the resolution.
        with_spectral_norm: Divide all weights by their largest singular value (SN-GAN).
        rotation: Add the head of the rotation task (SS-GAN).
        auxiliary: Add a head that tells the class (AC-GAN). It has no spectral norm: that would
            bound the logits, and with them what the cross-entropy of many classes can learn.
        pooling: 'sum': heads see the sum over all positions (SN-GAN); 'none': each position of
            the last block by itself (ours), for images that lie in place, like characters.
        init_cfg: Of MMEngine's BaseModule.

    Raises:
        ValueError: ``channels_cfg`` and ``downsample_cfg`` do not fit, ``pooling`` is unknown, or
            ``auxiliary`` has no classes to tell.

    Example:
        >>> discriminator = dict(type='mmext.ProjDiscriminator', input_scale=32, num_classes=10,
        ...                      base_channels=128)
    """

    def __init__(
        self,
        input_scale: int = 32,
        num_classes: int = 0,
        base_channels: int = 128,
        input_channels: int = 3,
        channels_cfg: Sequence[float] | None = None,
        downsample_cfg: Sequence[bool] | None = None,
        with_spectral_norm: bool = True,
        rotation: bool = False,
        auxiliary: bool = False,
        pooling: str = 'sum',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        default_factors, default_downs = BLOCKS.get(input_scale, (None, None))
        factors = channels_cfg or default_factors
        downs = downsample_cfg or default_downs
        if not factors or not downs or len(factors) != len(downs):
            raise ValueError(
                f'channels_cfg={channels_cfg} and downsample_cfg={downsample_cfg} must have one '
                f'entry per block; there are defaults for input_scale {", ".join(map(str, BLOCKS))}'
            )
        if input_scale >> sum(downs) < 1:
            raise ValueError(f'downsample_cfg={downsample_cfg} halves {input_scale} pixels to none')
        if pooling not in ('sum', 'none'):
            raise ValueError(f"pooling={pooling!r} must be 'sum' or 'none'")
        if auxiliary and not num_classes:
            raise ValueError('auxiliary=True tells classes: it needs num_classes > 0')
        self.input_scale = input_scale
        self.input_channels = input_channels
        self.num_classes = num_classes
        widths = [max(round(base_channels * factor), 1) for factor in factors]
        inputs = [input_channels, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(i, o, down, first=index == 0, spectral=with_spectral_norm)
                for index, (i, o, down) in enumerate(zip(inputs, widths, downs, strict=True))
            )
        )
        self.pooling = pooling
        features = widths[-1]
        if pooling == 'none':
            features *= (input_scale >> sum(downs)) ** 2
        self.score = normalised(nn.Linear(features, 1), with_spectral_norm)
        self.classes: nn.Module | None = None
        if num_classes:
            self.classes = normalised(nn.Embedding(num_classes, features), with_spectral_norm)
        self.rotation: nn.Module | None = None
        if rotation:
            self.rotation = normalised(nn.Linear(features, ROTATIONS), with_spectral_norm)
        self.auxiliary: nn.Module | None = None
        if auxiliary:
            self.auxiliary = xavier(nn.Linear(features, num_classes))

    def forward(self, images: Tensor, label: Tensor | None = None) -> Judgement:
        """Judge images.

        Args:
            images: (N, C, H, H) in [-1, 1].
            label: (N,) classes; None only with ``num_classes=0``.

        Raises:
            ValueError: Images have another size, or labels are missing.
        """
        wanted = (self.input_channels, self.input_scale, self.input_scale)
        if tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f'images are {tuple(images.shape[1:])} (C, H, W), the discriminator takes '
                f'{wanted}; resize them in the pipeline or change input_scale and input_channels'
            )
        features = self.blocks(images).relu()
        features = features.sum((2, 3)) if self.pooling == 'sum' else features.flatten(1)
        scores = self.score(features).squeeze(1)
        if self.classes is not None:
            if label is None:
                raise ValueError(f'a discriminator of {self.num_classes} classes needs labels')
            scores = scores + (self.classes(label) * features).sum(1)
        rotation, classes = (
            None if head is None else head(features).float()
            for head in (self.rotation, self.auxiliary)
        )
        return Judgement(scores.float(), rotation, classes)
