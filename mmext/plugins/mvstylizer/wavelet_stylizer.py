"""Photorealistic style transfer by a Haar auto-encoder and whitening-colouring transforms."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .color_transfer import running
from .flow import resize, working_size
from .functional import apply_map, cholesky_map, feature_statistics, haar_join, haar_split
from .interfaces import Frame, StyleCode, Stylizer, check_frame
from .perturbations import perturb_colors
from .trainable import SelfSupervised, to_frame, to_tensor

#: Longer side in pixels at which style images are encoded.
STYLE_SIDE = 480

Statistics = list[tuple[Tensor, Tensor]]


class Conv(nn.Conv2d):
    """3 x 3 convolution with the border repeated, near the identity at first.

    With convolutions that pass colours through, the untrained auto-encoder already returns its
    input, as the Haar transform is exact; training has to enrich features, not to find the picture.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1, padding_mode='replicate')
        with torch.no_grad():
            noise = self.weight.normal_(std=0.2 * (2 / (9 * before)) ** 0.5).clone()
            nn.init.dirac_(self.weight).add_(noise)
            nn.init.zeros_(self.bias)


class Layer(nn.Sequential):
    """A :class:`Conv` and a ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(Conv(before, after), nn.ReLU(inplace=True))


class WaveletStylizer(SelfSupervised, Stylizer):
    """Haar auto-encoder whose features take over the style's mean and covariance.

    After WCT2 (arXiv 1903.09760): pooling is a Haar transform whose high bands go straight to the
    decoder, so structure survives, and features are transformed at every scale in one pass. Ours:
    the encoder is trained instead of a VGG-19 that nobody may download, the transform is by
    Cholesky factors, and training asks, besides the photo itself, for a photo's other form from
    the statistics of that form.

    Args:
        channels: Of the scales, from full size down.
        strength: Share of the way to the style, in [0, 1].
        shrinkage: Of :func:`.cholesky_map`, > 0; more: weaker and calmer.
        momentum: Share that the statistics of earlier key frames of a scene keep, in [0, 1).
        weight_transfer: Weight of the loss of the other form.
        vgg: Path of torchvision's VGG-19 weights that you have. With it, training adds a loss on
            its features' statistics. Never downloaded, not needed to stylise.
        weight_style: Weight of that loss.
        weights: 'shipped', a path, or None, see :meth:`.SelfSupervised.load_weights`.
        data_preprocessor: Of MMEngine.

    Raises:
        ValueError: An argument is out of range.
        FileNotFoundError: ``vgg`` or ``weights`` does not exist.

    Example:
        >>> stylizer = STYLIZERS.build(dict(type='mmext.WaveletStylizer'))
        >>> stylised = stylizer.stylize(frame, stylizer.encode_style(style))

    Cost: some 80,000 multiply-adds a pixel; 1.8 GiB at 1920x1080.
    """

    shipped = 'wavelet'

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64, 128),
        strength: float = 1.0,
        shrinkage: float = 1e-2,
        momentum: float = 0.5,
        weight_transfer: float = 1.0,
        vgg: str | None = None,
        weight_style: float = 0.1,
        weights: str | None = 'shipped',
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if not channels or min(channels) < 1:
            raise ValueError(f'channels={channels} must be one number >= 1 for each scale')
        if not 0 <= strength <= 1 or not 0 <= momentum < 1 or not shrinkage > 0:
            raise ValueError(
                f'strength={strength} must be in [0, 1], momentum={momentum} in [0, 1) and '
                f'shrinkage={shrinkage} above 0'
            )
        self.strength = strength
        self.shrinkage = shrinkage
        self.momentum = momentum
        self.weight_transfer = weight_transfer
        self.weight_style = weight_style
        self.block = 2 ** len(channels)
        deeper = (*channels[1:], channels[-1])
        pairs = list(zip(channels, deeper, strict=True))
        self.first = Layer(3, channels[0])
        self.scales = nn.ModuleList(Layer(now, now) for now in channels)
        self.downs = nn.ModuleList(Layer(now, after) for now, after in pairs)
        self.ups = nn.ModuleList(Layer(after, now) for now, after in pairs)
        self.merges = nn.ModuleList(Layer(now, now) for now in channels)
        self.last = Conv(channels[0], 3)
        self.vgg: Any = None
        if vgg is not None:
            from .vgg import VGGStatistics

            # In a list: no part of this network's state.
            self.vgg = [VGGStatistics(vgg)]
        self.load_weights(weights)

    def encode(self, images: Tensor, style: Statistics | None = None, **options: Any) -> tuple:
        """Features of the deepest scale and the high bands of all scales.

        Args:
            images: (N, 3, H, W) in [0, 1], H and W multiples of 2 to the number of scales.
            style: Statistics of a style for each scale and the deepest features; None: as they
                are.
            **options: Of :meth:`_moved`.

        Returns:
            Features, list of high bands, list of the statistics before any transform.
        """
        features, bands = self.first(images), []
        told: Statistics = []
        for level, (scale, down) in enumerate(zip(self.scales, self.downs, strict=True)):
            features = self._moved(scale(features), level, style, told, **options)
            low, high = haar_split(features)
            bands.append(high)
            features = down(low)
        features = self._moved(features, len(self.scales), style, told, **options)
        return features, bands, told

    def decode(self, features: Tensor, bands: list[Tensor]) -> Tensor:
        """Images (N, 3, H, W) of what :meth:`encode` gives."""
        for up, merge, high in zip(
            reversed(self.ups), reversed(self.merges), reversed(bands), strict=True
        ):
            features = merge(haar_join(up(features), high))
        return self.last(features)

    def _moved(
        self,
        features: Tensor,
        level: int,
        style: Statistics | None,
        told: Statistics,
        memory: dict[str, Any] | None = None,
    ) -> Tensor:
        """Note the statistics of features and give them those of the style."""
        content = feature_statistics(features)
        told.append(content)
        if style is None:
            return features
        if memory is not None:
            content = running(memory, content, self.momentum, str(level))
        matrix, offset = cholesky_map(content, style[level], self.shrinkage)
        return apply_map(features, matrix, offset)

    def losses(self, photos: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """``loss_photo``, ``loss_edges``, ``loss_transfer`` and, with ``vgg``, ``loss_style``."""
        height, width = (side - side % self.block for side in photos.shape[-2:])
        first, second = (perturb_colors(photos[..., :height, :width], generator) for _ in range(2))
        features, bands, _ = self.encode(first)
        rebuilt = self.decode(features, bands)
        _, _, style = self.encode(second)
        features, bands, _ = self.encode(first, style)
        restyled = self.decode(features, bands)
        made = {
            'loss_photo': F.l1_loss(rebuilt, first),
            'loss_edges': gradient_loss(rebuilt, first) + gradient_loss(restyled, second),
            'loss_transfer': self.weight_transfer * F.l1_loss(restyled, second),
        }
        if self.vgg is not None:
            # Another photo's look: the last photo of the batch lends it to the first.
            features, bands, _ = self.encode(
                first, [(m.roll(1, 0), c.roll(1, 0)) for m, c in style]
            )
            lent = (
                self.vgg[0]
                .to(photos.device)
                .distance(self.decode(features, bands), second.roll(1, 0))
            )
            made['loss_style'] = self.weight_style * lent
        return made

    def tensor(self, photos: Tensor) -> Tensor:
        """Photos rebuilt, (N, 3, H, W)."""
        height, width = photos.shape[-2:]
        features, bands, _ = self.encode(_padded(photos, self.block))
        return self.decode(features, bands)[..., :height, :width]

    def encode_style(self, style: Frame) -> StyleCode:
        """Mean and covariance of the features at every scale."""
        size = working_size(check_frame(style, 'style').shape, STYLE_SIDE)
        with torch.inference_mode():
            image = _padded(to_tensor(resize(style, size), self), self.block)
            _, _, told = self.encode(image)
        code: StyleCode = {}
        for level, (mean, covariance) in enumerate(told):
            code[f'mean{level}'] = mean[0].cpu().numpy()
            code[f'covariance{level}'] = covariance[0].cpu().numpy()
        return code

    def stylize(self, frame: Frame, code: StyleCode, memory: dict[str, Any] | None = None) -> Frame:
        """Stylise a frame, see :class:`.Stylizer`."""
        height, width = check_frame(frame).shape[:2]
        with torch.inference_mode():
            image = _padded(to_tensor(frame, self), self.block)
            style = [
                tuple(
                    torch.as_tensor(np.asarray(code[f'{name}{level}']), device=image.device)[None]
                    for name in ('mean', 'covariance')
                )
                for level in range(len(self.scales) + 1)
            ]
            features, bands, _ = self.encode(image, style, memory=memory)
            made = torch.lerp(image, self.decode(features, bands), self.strength)
            return to_frame(made[..., :height, :width])


def gradient_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 distance of the differences of neighbouring pixels."""
    vertical = F.l1_loss(made.diff(dim=2), wanted.diff(dim=2))
    return vertical + F.l1_loss(made.diff(dim=3), wanted.diff(dim=3))


def _padded(images: Tensor, block: int) -> Tensor:
    """Images whose sides are multiples of ``block``, the border repeated."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % block, 0, -height % block), mode='replicate')
