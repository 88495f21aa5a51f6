"""The network that turns low-quality images into high-quality ones."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS

from .layers import xavier

MODES = ('feature', 'residual')


@MODELS.register_module()
class TransferNet(BaseModule):
    """Encoder-decoder from low to high quality; its features are the transferring features.

    The paper does not say in what it could be read what this network is; all of it is ours. It
    predicts the change of the pixels, ``hq = lq + change``, and starts as the identity.

    Args:
        output_scale: Height and width of the images in pixels.
        scales: Resolutions of the features; ``output_scale`` divided by powers of 2.
        num_classes: > 0 adds a learnt vector of the class to the deepest features.
        in_channels: Of the images, 1 or 3.
        base_channels: Channels at full resolution; twice as many at each lower one.
        mode: 'feature': the decoder's features are transferred; 'residual': the difference of the
            encoder's features of the result and of the input, at the cost of a second encoding.
        init_cfg: Of MMEngine's BaseModule.

    Raises:
        ValueError: A scale does not fit or ``mode`` is unknown.

    Example:
        >>> transfer = dict(type='mmext.TransferNet', output_scale=32, scales=(8, 16))
    """

    def __init__(
        self,
        output_scale: int = 32,
        scales: Sequence[int] = (8, 16),
        num_classes: int = 0,
        in_channels: int = 3,
        base_channels: int = 16,
        mode: str = 'feature',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if mode not in MODES:
            raise ValueError(f'mode={mode!r} must be one of {", ".join(MODES)}')
        smallest = min(scales, default=0)
        depth = (output_scale // smallest).bit_length() - 1 if smallest > 0 else 0
        ladder = [output_scale >> i for i in range(depth + 1)]
        exact = [scale for i, scale in enumerate(ladder) if scale << i == output_scale]
        wrong = [scale for scale in scales if scale not in exact[1:]]
        if not scales or wrong:
            raise ValueError(
                f'scales={tuple(scales)} must be output_scale={output_scale} divided by 2, 4, 8 ...'
            )
        self.output_scale = output_scale
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.mode = mode
        widths = [base_channels << i for i in range(depth + 1)]
        #: Resolution -> channels of the features.
        self.channels = {scale: widths[ladder.index(scale)] for scale in scales}
        self._ladder = ladder
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1) for i in range(depth)
        )
        self.middle = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.up = nn.ModuleList(
            nn.Conv2d(widths[i + 1] + widths[i], widths[i], 3, padding=1) for i in range(depth)
        )
        self.classes = nn.Embedding(num_classes, widths[-1]) if num_classes else None
        for layer in (self.stem, *self.down, self.middle, *self.up):
            xavier(layer, 2**0.5)
        if self.classes is not None:
            nn.init.zeros_(self.classes.weight)
        self.change = nn.Conv2d(widths[0], in_channels, 3, padding=1)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, lq: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """Transfer images.

        Args:
            lq: Low-quality images at full size (N, C, H, H), in [-1, 1].
            label: (N,) classes; None only with ``num_classes=0``.

        Returns:
            High-quality images (N, C, H, H) and the features by resolution.

        Raises:
            ValueError: Images have another size, or labels are missing.
        """
        wanted = (self.in_channels, self.output_scale, self.output_scale)
        if tuple(lq.shape[1:]) != wanted:
            raise ValueError(
                f'low-quality images are {tuple(lq.shape[1:])} (C, H, W), the transfer network '
                f'takes {wanted}'
            )
        if self.classes is not None and label is None:
            raise ValueError(f'a transfer network of {self.num_classes} classes needs labels')
        encoded = self._encode(lq)
        hidden = encoded[-1]
        if self.classes is not None:
            hidden = hidden + self.classes(label)[:, :, None, None]
        hidden = self.middle(hidden).relu()
        decoded = {self._ladder[-1]: hidden}
        for level in reversed(range(len(self.up))):
            hidden = nn.functional.interpolate(hidden, scale_factor=2, mode='nearest')
            hidden = self.up[level](torch.cat([hidden, encoded[level]], 1)).relu()
            decoded[self._ladder[level]] = hidden
        hq = lq + self.change(hidden)
        if self.mode == 'feature':
            return hq, {scale: decoded[scale] for scale in self.channels}
        levels = {scale: self._ladder.index(scale) for scale in self.channels}
        again = self._encode(hq)
        return hq, {scale: again[i] - encoded[i] for scale, i in levels.items()}

    def _encode(self, images: Tensor) -> list[Tensor]:
        features = [self.stem(images).relu()]
        for layer in self.down:
            features.append(layer(features[-1]).relu())
        return features
