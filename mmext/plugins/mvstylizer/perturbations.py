"""Random colour mappings and faults of style transfer: the material of self-supervised training.

All of it is ours. A photo under two random mappings is a pair with the same content and different
styles; a photo under a mapping, shrunk and spoiled, is what MetaSmoothing has to fix.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

#: Luma of BT.601.
LUMA = (0.299, 0.587, 0.114)


def perturb_colors(photos: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Draw for each photo a photorealistic colour mapping and apply it.

    White balance, gamma, contrast, saturation, hue and split toning, one after the other.

    Args:
        photos: (N, 3, H, W) in [0, 1].
        generator: On the CPU.
        strength: Of the mappings; 0 leaves the photos alone.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    count = len(photos)

    def draw(columns: int, spread: float) -> Tensor:
        values = torch.randn(count, columns, generator=generator) * (spread * strength)
        return values[:, :, None, None].to(photos)

    luma = photos.new_tensor(LUMA).view(1, 3, 1, 1)
    gain, gamma = draw(3, 0.12).exp(), (draw(1, 0.3) + draw(3, 0.12)).exp()
    colors = (photos * gain).clamp(1e-4, 1) ** gamma
    middle = colors.mean((1, 2, 3), keepdim=True)
    colors = middle + draw(1, 0.08) + (colors - middle) * draw(1, 0.25).exp()
    grey = (colors * luma).sum(1, keepdim=True)
    chroma = _turned(colors - grey, draw(1, 0.3))
    colors = grey + chroma * draw(1, 0.5).exp()
    tone = grey.clamp(0, 1)
    colors = colors + draw(3, 0.06) * (1 - tone) ** 2 + draw(3, 0.06) * tone**2
    return colors.clamp(0, 1)


def _turned(chroma: Tensor, angle: Tensor) -> Tensor:
    """Rotate colours around the grey axis (Rodrigues' formula)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    around = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / 3**0.5
    along = chroma.mean(1, keepdim=True)
    return chroma * cos + around * sin + along * (1 - cos)


def spoil(stylised: Tensor, generator: torch.Generator) -> Tensor:
    """Add the faults of style transfer at low resolution.

    Chroma blotches, colour that bleeds over edges, halos, a checkerboard, noise and JPEG blocks,
    each with a random strength.

    Args:
        stylised: (N, 3, h, w) in [0, 1].
        generator: On the CPU.

    Returns:
        (N, 3, h, w) in [0, 1], multiples of 1/255.
    """
    count, _, height, width = stylised.shape

    def amount(largest: float) -> Tensor:
        values = torch.rand(count, 1, 1, 1, generator=generator) * largest
        return values.to(stylised)

    def noise(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(stylised)

    luma = stylised.new_tensor(LUMA).view(1, 3, 1, 1)
    image = stylised
    # Colour leaks over edges: chroma is blurred, luma is not.
    grey = (image * luma).sum(1, keepdim=True)
    leaked = grey + _blur(image - grey, 2.0)
    image = torch.lerp(image, leaked, amount(0.9))
    blotches = F.interpolate(noise(3, 4, 4), (height, width), mode='bicubic', align_corners=False)
    blotches = blotches - (blotches * luma).sum(1, keepdim=True)
    image = image + blotches * amount(0.06)
    image = image + (image - _blur(image, 1.5)) * (amount(1.2) - 0.3)
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2 * 2.0 - 1
    image = image + board.to(image) * amount(0.015)
    image = image + noise(3, height, width) * amount(0.02)
    quality = torch.randint(55, 98, (count,), generator=generator).tolist()
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    packed = [_jpeg(pixels[i], quality[i]) for i in range(count)]
    return torch.from_numpy(np.stack(packed)).to(stylised).permute(0, 3, 1, 2) / 255


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, C, H, W), the border repeated."""
    radius = int(np.ceil(2.5 * sigma))
    places = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, (radius,) * 4, mode='replicate')
    rows = F.conv2d(padded, kernel.unsqueeze(2), groups=images.shape[1])
    return F.conv2d(rows, kernel.unsqueeze(3), groups=images.shape[1])
