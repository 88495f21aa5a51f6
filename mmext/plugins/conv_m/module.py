"""The Conv-M module."""

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS

DECONVS = ('resample', 'stride1')
NORM = dict(type='BN')
RELU = dict(type='ReLU')


@MODELS.register_module()
class ConvM(BaseModule):
    """Three views of one input: convolution, dilated convolution and deconvolution, concatenated.

    A 1x1 convolution reduces the channels; then, in parallel, a 3x3 convolution, a 3x3 convolution
    with dilation 2, which covers 5x5 pixels, and a deconvolution (arXiv 1703.04071). Batch norm and
    ReLU follow every convolution. The reduction is ours.

    Args:
        in_channels: Of the input, >= 1.
        reduce_channels: Behind the 1x1 convolution, >= 1.
        out_channels: Of the output, >= 3; a third for each branch, what remains for the first.
        deconv: 'resample' (ours): a 3x3 depth-wise convolution of stride 2, then a 3x3
            deconvolution of stride 2, which draws the input's shapes again from half its
            resolution; an output pixel sees 3 or 5 pixels in each direction, in turn. 'stride1': a
            deconvolution of stride 1. That is a convolution with a turned kernel and adds no other
            kind of function.
        norm_cfg: Normalisation, as in mmcv; None for none.
        act_cfg: Activation; None for none.
        init_cfg: MMEngine's initialisation. mmcv's blocks start with He's.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> module = ConvM(192, 48, 256)
        >>> module(torch.rand(1, 192, 28, 28)).shape
        torch.Size([1, 256, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        reduce_channels: int,
        out_channels: int,
        deconv: str = 'resample',
        norm_cfg: dict | None = NORM,
        act_cfg: dict | None = RELU,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if deconv not in DECONVS:
            raise ValueError(f'deconv={deconv!r} must be one of {", ".join(DECONVS)}')
        if min(in_channels, reduce_channels) < 1 or out_channels < 3:
            raise ValueError(
                f'in_channels={in_channels} and reduce_channels={reduce_channels} must be at least '
                f'1, out_channels={out_channels} at least 3, one for each branch'
            )
        third, rest = divmod(out_channels, 3)
        widths = [third + (branch < rest) for branch in range(3)]
        common = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.reduce = ConvModule(in_channels, reduce_channels, 1, **common)
        self.conv = ConvModule(reduce_channels, widths[0], 3, padding=1, **common)
        self.dilated = ConvModule(reduce_channels, widths[1], 3, padding=2, dilation=2, **common)
        if deconv == 'resample':
            self.deconv = nn.Sequential(
                ConvModule(
                    reduce_channels,
                    reduce_channels,
                    3,
                    stride=2,
                    padding=1,
                    groups=reduce_channels,
                    **common,
                ),
                ConvModule(
                    reduce_channels,
                    widths[2],
                    3,
                    stride=2,
                    padding=1,
                    conv_cfg=dict(type='mmengine.deconv', output_padding=1),
                    **common,
                ),
            )
        else:
            self.deconv = ConvModule(
                reduce_channels, widths[2], 3, padding=1,
                conv_cfg=dict(type='mmengine.deconv'), **common,
            )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        reduced = self.reduce(inputs)
        drawn = self.deconv(reduced)
        # An odd side comes back one pixel longer.
        drawn = drawn[..., : reduced.shape[2], : reduced.shape[3]]
        return torch.cat([self.conv(reduced), self.dilated(reduced), drawn], 1)
