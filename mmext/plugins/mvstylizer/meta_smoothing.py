"""Meta-smoothing: upscale a stylised frame to any size and fix it, in one go."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .flow import resize
from .functional import meta_upscale, phases
from .interfaces import Frame, Upscaler, check_frame, check_size
from .perturbations import perturb_colors, spoil
from .trainable import SelfSupervised, to_frame, to_tensor
from .wavelet_stylizer import gradient_loss


class Residual(nn.Module):
    """Two convolutions around a ReLU, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


class MetaSmoothing(SelfSupervised, Upscaler):
    """Upscale a stylised frame to any (height, width) and remove the faults of style transfer.

    The paper's abstract (arXiv 2005.11630) asks for both at once and gives no network; this one is
    ours: residual blocks on the small frame, then a Meta-Upscale head (Meta-SR, arXiv 1903.00875)
    whose 3 x 3 kernels are predicted from the place of an output pixel between input pixels and
    from the two scales. Only the different places get a kernel, at most 16 x 16, not every pixel.
    The head gives a correction of the bicubic image and, where the original is at hand, how much
    of its detail to add. Trained on photos under random colour mappings, shrunk by 1 to 4 and
    spoiled as style transfer does.

    Args:
        channels: Of the features.
        blocks: Residual blocks.
        hidden: Of the network that predicts kernels.
        scales: Least and largest scale in training.
        guided: Share of training batches that see the original.
        weights: 'shipped', a path, or None, see :meth:`.SelfSupervised.load_weights`.
        data_preprocessor: Of MMEngine.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> smoothing = UPSCALERS.build(dict(type='mmext.MetaSmoothing'))
        >>> large = smoothing.upscale(stylised, (1080, 1920), guide=original)

    Cost: some 80,000 multiply-adds per input pixel and 1,700 per output pixel; 0.3 GiB at
    1920x1080.
    """

    shipped = 'meta_smoothing'

    def __init__(
        self,
        channels: int = 32,
        blocks: int = 4,
        hidden: int = 64,
        scales: tuple[float, float] = (1.0, 4.0),
        guided: float = 0.75,
        weights: str | None = 'shipped',
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if channels < 1 or blocks < 1 or hidden < 1:
            raise ValueError(
                f'channels={channels}, blocks={blocks} and hidden={hidden} must be at least 1'
            )
        if not 1 <= scales[0] <= scales[1] or not 0 <= guided <= 1:
            raise ValueError(
                f'scales={scales} must rise from at least 1 and guided={guided} be in [0, 1]'
            )
        self.channels = channels
        self.scale_range = scales
        self.guided = guided
        # Stylised, original, and whether there is one.
        self.first = nn.Conv2d(7, channels, 3, padding=1)
        self.body = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.kernels = nn.Sequential(
            nn.Linear(4, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 6 * channels * 9)
        )
        # Starts near the bicubic image.
        nn.init.normal_(self.kernels[2].weight, std=0.1 / hidden**0.5)
        nn.init.normal_(self.kernels[2].bias, std=0.03)
        self.load_weights(weights)

    def predicted_kernels(
        self, rows: Tensor, columns: Tensor, scale: tuple[float, float]
    ) -> Tensor:
        """Kernels of all pairs of phases: (row phases, column phases, 6, C, 3, 3).

        Args:
            rows: Offsets of the row phases.
            columns: Of the column phases.
            scale: Output over input, vertical and horizontal.
        """
        weight = self.first.weight
        grid = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1)
        inverse = torch.tensor([1 / scale[0], 1 / scale[1]]).expand(*grid.shape)
        places = torch.cat([grid - 0.5, inverse - 0.5], -1).to(weight)
        # Scaled by the number of addends: else a step of the optimizer moves the output too far.
        kernels = self.kernels(places) / (9 * self.channels) ** 0.5
        return kernels.unflatten(-1, (6, self.channels, 3, 3))

    def features(self, stylised: Tensor, guide: Tensor | None) -> Tensor:
        """Features (N, C, h, w) of stylised images and originals of the same size."""
        mask = stylised.new_full((len(stylised), 1, *stylised.shape[-2:]), float(guide is not None))
        original = torch.zeros_like(stylised) if guide is None else guide - 0.5
        features = self.first(torch.cat([stylised - 0.5, original, mask], 1))
        return features + self.body(features)

    def enlarge(
        self,
        stylised: Tensor,
        size: tuple[int, int],
        guide: Tensor | None = None,
        small_guide: Tensor | None = None,
    ) -> Tensor:
        """Images at ``size``, in [0, 1] but for overshoots.

        Args:
            stylised: (N, 3, h, w) in [0, 1].
            size: (H, W).
            guide: Originals (N, 3, H, W).
            small_guide: The same at (h, w).
        """
        height, width = stylised.shape[-2:]
        rows, columns = phases(height, size[0]), phases(width, size[1])
        scale = size[0] / height, size[1] / width
        kernels = self.predicted_kernels(rows[2], columns[2], scale)
        found = meta_upscale(self.features(stylised, small_guide), kernels, rows[:2], columns[:2])
        result = _bicubic(stylised, size) + found[:, :3]
        if guide is not None and small_guide is not None:
            # The head corrects a gain of one.
            result = result + (1 + found[:, 3:]) * (guide - _bicubic(small_guide, size))
        return result

    def losses(self, photos: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """``loss_pixels`` and ``loss_edges``, see the class and the base class."""
        low, high = self.scale_range
        draws = torch.rand(3, generator=generator)
        size = photos.shape[-2:]
        # Eighths of the photo: few phases, so that a step is quick, and scales as 8/3 among them.
        steps = [max(1, round(8 / (low + (high - low) * part))) for part in draws[:2].tolist()]
        small = (max(8, size[0] * steps[0] // 8), max(8, size[1] * steps[1] // 8))
        wanted = perturb_colors(photos, generator)
        shrunk = F.interpolate(wanted, small, mode='area')
        stylised = spoil(shrunk, generator)
        guide = small_guide = None
        if draws[2] < self.guided:
            guide, small_guide = photos, F.interpolate(photos, small, mode='area')
        made = self.enlarge(stylised, (size[0], size[1]), guide, small_guide)
        return {
            'loss_pixels': F.l1_loss(made, wanted),
            'loss_edges': 0.5 * gradient_loss(made, wanted),
        }

    def tensor(self, photos: Tensor) -> Tensor:
        """Photos fixed at their own size, (N, 3, H, W)."""
        return self.enlarge(photos, (photos.shape[2], photos.shape[3]))

    def upscale(self, frame: Frame, size: tuple[int, int], guide: Frame | None = None) -> Frame:
        """Frame at ``size``, see :class:`.Upscaler`.

        Raises:
            ValueError: ``guide`` has another size than ``size``.
        """
        size = check_size(size)
        height, width = check_frame(frame).shape[:2]
        large = small = None
        if guide is not None:
            if check_frame(guide, 'guide').shape[:2] != size:
                raise ValueError(f'guide has size {guide.shape[:2]}, wanted is {size}')
            large = to_tensor(guide, self)
            small = to_tensor(resize(guide, (height, width)), self)
        with torch.inference_mode():
            return to_frame(self.enlarge(to_tensor(frame, self), size, large, small))


def _bicubic(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode='bicubic', align_corners=False)
