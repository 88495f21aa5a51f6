"""Projection discriminator with a rotation head."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS

from .functional import ROTATIONS
from .layers import DiscriminatorBlock, normalised

#: input_scale -> factors of ``base_channels`` and which blocks halve the resolution (SN-GAN's and
#: mmagic's configs, 28: ours).
BLOCKS: dict[int, tuple[tuple[float, ...], tuple[bool, ...]]] = {
    28: ((1, 1, 1), (True, True, False)),
    32: ((1, 1, 1, 1), (True, True, False, False)),
    48: ((1, 2, 4, 8, 16), (True, True, True, True, False)),
    64: ((1, 2, 4, 8, 16), (True, True, True, True, False)),
    128: ((1, 2, 4, 8, 16, 16), (True, True, True, True, True, False)),
}


@MODELS.register_module()
class ProjDiscriminator(BaseModule):
    """ResNet discriminator with class projection (arXiv 1802.05637) and spectral norm.

    One forward gives both heads, so that DistributedDataParallel sees every parameter each time.
    The names of the arguments are mmagic's, but for ``rotation``.

    Args:
        input_scale: Height and width of the images in pixels.
        num_classes: 0: unconditional.
        base_channels: Times ``channels_cfg`` gives the channels of the blocks.
        input_channels: Of the images, 1 or 3.
        channels_cfg: A factor per block; by default that of :data:`BLOCKS`.
        downsample_cfg: For each block whether it halves the resolution.
        with_spectral_norm: Divide all weights by their largest singular value (SN-GAN).
        rotation: Add the head of the rotation task (SS-GAN).
        init_cfg: Of MMEngine's BaseModule.

    Raises:
        ValueError: ``channels_cfg`` and ``downsample_cfg`` do not fit.

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
        self.score = normalised(nn.Linear(widths[-1], 1), with_spectral_norm)
        self.classes: nn.Module | None = None
        if num_classes:
            self.classes = normalised(nn.Embedding(num_classes, widths[-1]), with_spectral_norm)
        self.rotation: nn.Module | None = None
        if rotation:
            self.rotation = normalised(nn.Linear(widths[-1], ROTATIONS), with_spectral_norm)

    def forward(self, images: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Judge images.

        Args:
            images: (N, C, H, H) in [-1, 1].
            label: (N,) classes; None only with ``num_classes=0``.

        Returns:
            Scores (N,), higher for real, and rotation logits (N, 4), or None without that head.

        Raises:
            ValueError: Images have another size, or labels are missing.
        """
        wanted = (self.input_channels, self.input_scale, self.input_scale)
        if tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f'images are {tuple(images.shape[1:])} (C, H, W), the discriminator takes '
                f'{wanted}; resize them in the pipeline or change input_scale and input_channels'
            )
        features = self.blocks(images).relu().sum((2, 3))
        scores = self.score(features).squeeze(1)
        if self.classes is not None:
            if label is None:
                raise ValueError(f'a discriminator of {self.num_classes} classes needs labels')
            scores = scores + (self.classes(label) * features).sum(1)
        rotation = None if self.rotation is None else self.rotation(features).float()
        return scores.float(), rotation
