"""Generator of SN-GAN into which conditional transferring features can be injected."""

from collections.abc import Callable, Mapping, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS

from .functional import enlarge, inject
from .layers import ConditionalNorm, GeneratorBlock, xavier

#: output_scale -> factors of ``base_channels``: those of SN-GAN's and mmagic's configs, but for 28
#: and 48, which are ours.
CHANNELS: dict[int, tuple[float, ...]] = {
    28: (1, 1),
    32: (1, 1, 1),
    48: (8, 4, 2),
    64: (16, 8, 4, 2),
    128: (16, 16, 8, 4, 2),
}

#: Takes images (N, C, H, H) and labels, gives images and features by resolution.
Transfer = Callable[[Tensor, Tensor | None], tuple[Tensor, Mapping[int, Tensor]]]


class Injection(nn.Module):
    """A 1x1 convolution of the transferred features behind a gate that starts at 0.

    Args:
        in_channels: Of the features.
        out_channels: Of the generator's stage.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = xavier(nn.Conv2d(in_channels, out_channels, 1))
        self.gate = nn.Parameter(torch.zeros(out_channels))

    def forward(self, feature: Tensor, ctf: Tensor) -> Tensor:
        """Add the features (N, C', H, H) to a stage (N, C, H, H)."""
        return inject(feature, self.conv(ctf), self.gate)


@MODELS.register_module()
class SNGANGenerator(BaseModule):
    """ResNet generator of SN-GAN with class-conditional batch norm (arXiv 1802.05957, 1802.05637).

    The names of the arguments are mmagic's.

    Args:
        output_scale: Height and width of the images in pixels; ``input_scale`` times a power of 2.
        num_classes: 0: unconditional.
        base_channels: Times ``channels_cfg`` gives the channels of the stages.
        out_channels: Of the images, 1 or 3.
        input_scale: Resolution of the first stage.
        noise_size: Length of a noise vector.
        class_size: Length of a learnt vector of the class that joins the noise (BigGAN, arXiv
            1809.11096); 0: the class enters by batch norm alone (SN-GAN).
        channels_cfg: A factor per block; by default that of :data:`CHANNELS`.
        init_cfg: Of MMEngine's BaseModule.

    Raises:
        ValueError: The scales do not fit, or ``channels_cfg`` has not one entry per block.

    Example:
        >>> generator = dict(type='mmext.SNGANGenerator', output_scale=32, num_classes=10,
        ...                  base_channels=256)
    """

    def __init__(
        self,
        output_scale: int = 32,
        num_classes: int = 0,
        base_channels: int = 64,
        out_channels: int = 3,
        input_scale: int = 4,
        noise_size: int = 128,
        class_size: int = 0,
        channels_cfg: Sequence[float] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        blocks = max(output_scale // max(input_scale, 1), 1).bit_length() - 1
        if blocks < 1 or input_scale * 2**blocks != output_scale:
            raise ValueError(
                f'output_scale={output_scale} must be input_scale={input_scale} times 2, 4, 8 ...; '
                'choose another input_scale (7 for 28 pixels, 6 for 48)'
            )
        factors = channels_cfg or CHANNELS.get(output_scale)
        if factors is None or len(factors) != blocks:
            raise ValueError(
                f'channels_cfg={channels_cfg} must have one factor for each of the {blocks} blocks '
                f'between {input_scale} and {output_scale} pixels'
            )
        if class_size < 0 or (class_size and not num_classes):
            raise ValueError(f'class_size={class_size} needs num_classes > 0 and must be >= 0')
        widths = [max(round(base_channels * factor), 1) for factor in factors]
        widths.insert(0, widths[0])
        self.output_scale = output_scale
        self.num_classes = num_classes
        self.out_channels = out_channels
        self.input_scale = input_scale
        self.noise_size = noise_size
        #: Resolution of each stage -> its channels.
        self.stages = {input_scale * 2**i: width for i, width in enumerate(widths)}
        self.classes = nn.Embedding(num_classes, class_size) if class_size else None
        self.linear = xavier(nn.Linear(noise_size + class_size, widths[0] * input_scale**2))
        self.blocks = nn.ModuleList(
            GeneratorBlock(widths[i], widths[i + 1], num_classes) for i in range(blocks)
        )
        self.norm = ConditionalNorm(widths[-1])
        self.to_image = xavier(nn.Conv2d(widths[-1], out_channels, 3, padding=1))
        self.injections = nn.ModuleDict()
        self.lq_norm: nn.Module | None = None
        self.to_lq: nn.Module | None = None

    def add_injections(self, channels: Mapping[int, int], from_stage: bool) -> None:
        """Make room for transferred features; the weights that exist stay as they are.

        Args:
            channels: Resolution -> channels of the features.
            from_stage: Add the head that shows the first injected stage as a low-quality image.

        Raises:
            ValueError: The generator has no stage of that resolution below that of the images.
        """
        possible = [scale for scale in self.stages if scale < self.output_scale]
        wrong = [scale for scale in channels if scale not in possible]
        if wrong or not channels:
            raise ValueError(
                f'ctf.scales={tuple(channels)} must be stages of the generator below the images, '
                f'some of {possible}'
            )
        # The seed gives discriminator and transfer network the weights of a run without CTF.
        with torch.random.fork_rng(devices=[]):
            for scale in sorted(channels):
                self.injections[str(scale)] = Injection(channels[scale], self.stages[scale])
            if from_stage:
                width = self.stages[min(channels)]
                self.lq_norm = ConditionalNorm(width, self.num_classes)
                self.to_lq = xavier(nn.Conv2d(width, self.out_channels, 3, padding=1))

    def forward(
        self,
        noise: Tensor,
        label: Tensor | None = None,
        transfer: Transfer | None = None,
        lq: Tensor | None = None,
        return_lq: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Make images.

        Args:
            noise: (N, noise_size), standard normal.
            label: (N,) classes; None only with ``num_classes=0``.
            transfer: Transfer network whose features are injected; None: no injection.
            lq: Low-quality images (N, C, H, H) to transfer, in the place of the own stage.
            return_lq: Whether to return the low-quality images of the own stage as well.

        Returns:
            Images (N, out_channels, output_scale, output_scale) in [-1, 1]; with ``return_lq`` also
            the low-quality images at the resolution of their stage, or None.

        Raises:
            ValueError: Noise or labels do not fit.
        """
        if noise.ndim != 2 or noise.shape[1] != self.noise_size:
            raise ValueError(f'noise must be (N, {self.noise_size}), got {tuple(noise.shape)}')
        if self.num_classes and (label is None or len(label) != len(noise)):
            raise ValueError(
                f'a generator of {self.num_classes} classes needs one label per noise vector'
            )
        if self.classes is not None:
            noise = torch.cat([noise, self.classes(label)], 1)
        hidden = self.linear(noise).view(len(noise), -1, self.input_scale, self.input_scale)
        ctf: Mapping[int, Tensor] | None = None
        shown = None
        for scale, block in zip(self.stages, [*self.blocks, None], strict=True):
            if transfer is not None and str(scale) in self.injections:
                if ctf is None:
                    if lq is None:
                        shown = self._show(hidden, label)
                        lq = enlarge(shown, self.output_scale)
                    ctf = transfer(lq, label)[1]
                hidden = self.injections[str(scale)](hidden, ctf[scale])
            if block is not None:
                hidden = block(hidden, label)
        images = self.to_image(self.norm(hidden, None).relu()).tanh()
        return (images, shown) if return_lq else images

    def _show(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        if self.lq_norm is None or self.to_lq is None:
            raise ValueError('this generator shows no low-quality images; pass lq')
        return self.to_lq(self.lq_norm(hidden, label).relu()).tanh()
