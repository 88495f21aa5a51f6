"""Residual blocks of the generator and the discriminator of SN-GAN (arXiv 1802.05957)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

_ROOT2 = 2**0.5


def xavier(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """Initialise weights as SN-GAN's code does, biases with 0."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if getattr(layer, 'bias', None) is not None:
        nn.init.zeros_(layer.bias)
    return layer


def normalised(layer: nn.Module, spectral: bool, gain: float = 1.0) -> nn.Module:
    """Initialise a layer and divide its weight by its largest singular value, if wanted."""
    xavier(layer, gain)
    return spectral_norm(layer) if spectral else layer


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift depend on the class; plain with 0 classes.

    Args:
        channels: Number of channels.
        num_classes: 0 for one scale and shift for all images.
    """

    def __init__(self, channels: int, num_classes: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(max(num_classes, 1), channels)
        self.shift = nn.Embedding(max(num_classes, 1), channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)
        self.num_classes = num_classes

    def forward(self, inputs: Tensor, label: Tensor | None) -> Tensor:
        """Normalise (N, C, H, W) for labels (N,), which are ignored with 0 classes."""
        if not self.num_classes or label is None:
            label = torch.zeros(1, dtype=torch.long, device=inputs.device)
        scale, shift = self.scale(label), self.shift(label)
        return torch.addcmul(shift[..., None, None], self.norm(inputs), scale[..., None, None])


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, in_channels: int, out_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(in_channels, num_classes)
        self.norm2 = ConditionalNorm(out_channels, num_classes)
        self.conv1 = xavier(nn.Conv2d(in_channels, out_channels, 3, padding=1), _ROOT2)
        self.conv2 = xavier(nn.Conv2d(out_channels, out_channels, 3, padding=1), _ROOT2)
        self.shortcut = xavier(nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, inputs: Tensor, label: Tensor | None) -> Tensor:
        """(N, C, H, W) to (N, C', 2 H, 2 W)."""
        hidden = _double(self.norm1(inputs, label).relu())
        hidden = self.norm2(self.conv1(hidden), label).relu()
        # A 1x1 convolution and the enlargement commute; this order costs a quarter.
        return self.conv2(hidden) + _double(self.shortcut(inputs))


class DiscriminatorBlock(nn.Module):
    """Residual block that may halve the resolution; the first one begins without ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, down: bool, first: bool, spectral: bool
    ) -> None:
        super().__init__()
        self.down = down
        self.first = first
        hidden = out_channels if first else in_channels
        self.conv1 = normalised(nn.Conv2d(in_channels, hidden, 3, padding=1), spectral, _ROOT2)
        self.conv2 = normalised(nn.Conv2d(hidden, out_channels, 3, padding=1), spectral, _ROOT2)
        self.shortcut: nn.Module | None = None
        if down or in_channels != out_channels:
            self.shortcut = normalised(nn.Conv2d(in_channels, out_channels, 1), spectral)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W) or half of it."""
        hidden = inputs if self.first else inputs.relu()
        hidden = self.conv2(self.conv1(hidden).relu())
        if self.down:
            hidden = nn.functional.avg_pool2d(hidden, 2)
            # Averaging and a 1x1 convolution commute.
            inputs = nn.functional.avg_pool2d(inputs, 2)
        return hidden + (inputs if self.shortcut is None else self.shortcut(inputs))


def _double(inputs: Tensor) -> Tensor:
    return nn.functional.interpolate(inputs, scale_factor=2, mode='nearest')
