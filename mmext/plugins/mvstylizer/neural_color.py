"""A network that sees a thumbnail and gives a colour mapping for the whole frame."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .color_transfer import running
from .flow import resize
from .interfaces import Frame, StyleCode, Stylizer, check_frame
from .perturbations import perturb_colors
from .trainable import SelfSupervised, to_tensor

#: Pixels that are mapped together.
CHUNK = 1 << 16


class ColorMapping(nn.Module):
    """``y = c + tanh(c P + p) T Q`` on every pixel, with a matrix T of its own for each image.

    Args:
        width: Size k of T (k x k).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.lift = nn.Linear(3, width)
        self.drop = nn.Linear(width, 3, bias=False)
        nn.init.normal_(self.lift.weight, std=1.5)
        nn.init.normal_(self.lift.bias, std=0.7)

    def forward(self, colors: Tensor, matrix: Tensor) -> Tensor:
        """Colours (N, M, 3) in [0, 1] under matrices (N, k, k)."""
        output = matrix @ self.drop.weight.T
        return colors + torch.tanh(self.lift(colors)) @ output


class NeuralColorMapping(SelfSupervised, Stylizer):
    """Predict a 16 x 16 colour matrix from a thumbnail (after Neural Preset, arXiv 2303.13511).

    The content's thumbnail gives a matrix that takes its own look away, the style's one that puts
    the style's look on; both act on single pixels, so no structure can be distorted and any
    resolution will do. Trained without styles: a photo under two random colour mappings must turn
    into its other form, and both forms must be equal once their look is gone. Differs from Neural
    Preset in the tanh between the matrices, without which two of them are one 3 x 3 matrix, and in
    the colour moments that the encoder gets along.

    Args:
        width: Size of the matrices.
        thumbnail: Side in pixels of what the encoder sees.
        strength: Share of the way to the style, in [0, 1].
        momentum: Share that the content's matrix of earlier key frames of a scene keeps, in [0, 1).
        weight_consistency: Weight of the loss between normalised images.
        weights: 'shipped', a path, or None, see :meth:`.SelfSupervised.load_weights`.
        data_preprocessor: Of MMEngine.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> stylizer = STYLIZERS.build(dict(type='mmext.NeuralColorMapping'))
        >>> stylised = stylizer.stylize(frame, stylizer.encode_style(style))

    Cost: a small network on the thumbnail; about 200 multiply-adds and 32 tanh a pixel.
    """

    resolution_free = True
    shipped = 'neural_color'

    def __init__(
        self,
        width: int = 16,
        thumbnail: int = 96,
        strength: float = 1.0,
        momentum: float = 0.5,
        weight_consistency: float = 10.0,
        weights: str | None = 'shipped',
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if width < 1 or thumbnail < 32 or not 0 <= strength <= 1 or not 0 <= momentum < 1:
            raise ValueError(
                f'width={width} must be at least 1, thumbnail={thumbnail} at least 32, '
                f'strength={strength} in [0, 1] and momentum={momentum} in [0, 1)'
            )
        self.width = width
        self.thumbnail = thumbnail
        self.strength = strength
        self.momentum = momentum
        self.weight_consistency = weight_consistency
        sizes = (3, 24, 32, 48, 64)
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU(inplace=True)]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(2 * sizes[-1] + 9, 128), nn.ReLU(inplace=True))
        self.content_head = nn.Linear(128, width * width)
        self.style_head = nn.Linear(128, width * width)
        for head in (self.content_head, self.style_head):
            nn.init.normal_(head.weight, std=1e-2)
            nn.init.zeros_(head.bias)
        self.normalise = ColorMapping(width)
        self.restyle = ColorMapping(width)
        self.load_weights(weights)

    def describe(self, thumbnails: Tensor) -> Tensor:
        """What the encoder sees in thumbnails (N, 3, h, w) in [0, 1]: (N, 128)."""
        features = self.encoder(thumbnails - 0.5)
        colors = thumbnails.flatten(2)
        mean = colors.mean(2)
        centred = colors - mean.unsqueeze(2)
        covariance = centred @ centred.transpose(1, 2) / colors.shape[2]
        spread = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-6).sqrt()
        pairs = covariance[:, [0, 0, 1], [1, 2, 2]] * 10
        pooled = (features.mean((2, 3)), features.amax((2, 3)))
        return self.head(torch.cat([*pooled, mean - 0.5, spread * 3, pairs], 1))

    def content_matrix(self, thumbnails: Tensor) -> Tensor:
        """Matrices (N, k, k) that take the look away."""
        return self.content_head(self.describe(thumbnails)).view(-1, self.width, self.width)

    def style_matrix(self, thumbnails: Tensor) -> Tensor:
        """Matrices (N, k, k) that put the look on."""
        return self.style_head(self.describe(thumbnails)).view(-1, self.width, self.width)

    def losses(self, photos: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """``loss_transfer`` and ``loss_consistency``, see the class and the base class.

        The style is seen on another cut of the photo than the content, so that its place in the
        picture tells nothing.
        """
        first, second = (perturb_colors(photos, generator) for _ in range(2))
        normal = []
        for image in (first, second):
            matrix = self.content_matrix(self._small(image))
            normal.append(self.normalise(_listed(image), matrix))
        transfer = photos.new_zeros(())
        for index, image in enumerate((second, first)):
            window = _window(image, generator)
            made = self.restyle(normal[index], self.style_matrix(self._small(window)))
            transfer = transfer + F.l1_loss(made, _listed(image)) / 2
        consistency = F.mse_loss(normal[0], normal[1])
        return {
            'loss_transfer': transfer,
            'loss_consistency': self.weight_consistency * consistency,
        }

    def tensor(self, photos: Tensor) -> Tensor:
        """Photos without their look, (N, 3, H, W)."""
        normal = self.normalise(_listed(photos), self.content_matrix(self._small(photos)))
        return normal.transpose(1, 2).reshape(photos.shape)

    def encode_style(self, style: Frame) -> StyleCode:
        """Matrix (k, k) of the style image."""
        with torch.inference_mode():
            matrix = self.style_matrix(self._thumbnail(check_frame(style, 'style')))
        return {'matrix': matrix[0].float().cpu().numpy()}

    def stylize(self, frame: Frame, code: StyleCode, memory: dict[str, Any] | None = None) -> Frame:
        """Stylise a frame, see :class:`.Stylizer`."""
        check_frame(frame)
        with torch.inference_mode():
            content = self.content_matrix(self._thumbnail(frame))
            if memory is not None:
                (content,) = running(memory, (content,), self.momentum)
            style = torch.as_tensor(code['matrix'], device=content.device)[None]
            pixels = torch.from_numpy(np.array(frame, order='C')).reshape(1, -1, 3)
            result = torch.empty_like(pixels)
            for start in range(0, pixels.shape[1], CHUNK):
                piece = pixels[:, start : start + CHUNK].to(content) / 255
                made = self.restyle(self.normalise(piece, content), style)
                made = torch.lerp(piece, made, self.strength)
                result[:, start : start + CHUNK] = (made * 255).round_().clamp_(0, 255)
        return result.reshape(frame.shape).numpy()

    def _small(self, images: Tensor) -> Tensor:
        return F.interpolate(images, (self.thumbnail, self.thumbnail), mode='area')

    def _thumbnail(self, frame: Frame) -> Tensor:
        return to_tensor(resize(frame, (self.thumbnail, self.thumbnail)), self)


def _listed(images: Tensor) -> Tensor:
    """(N, 3, H, W) as (N, H W, 3)."""
    return images.flatten(2).transpose(1, 2)


def _window(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random window of 60 to 100 % of the sides, the same for all images of a batch."""
    height, width = images.shape[-2:]
    part, y, x = torch.rand(3, generator=generator).tolist()
    tall, wide = (max(8, round(side * (0.6 + 0.4 * part))) for side in (height, width))
    top, left = round(y * (height - tall)), round(x * (width - wide))
    return images[..., top : top + tall, left : left + wide]
