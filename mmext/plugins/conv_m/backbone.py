"""The network of Conv-M modules."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.registry import MODELS

from .module import NORM, RELU, ConvM

#: Layer tables (ours). ``stem``: channels of the first convolution and, behind it, of a 1x1 and a
#: 3x3 one; ``stages``: (reduced, output) channels of the modules, each stage at half the size.
ARCHS: dict[str, dict[str, Any]] = {
    '4p1m': dict(
        stem=(64, 64, 192),
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        stages=(
            ((48, 256), (64, 384)),
            ((56, 512),) * 5,
            ((56, 768), (80, 1024)),
        ),
    ),
    'small': dict(
        stem=(16,),
        stem_kernel=3,
        stem_stride=1,
        stem_pool=False,
        stages=(((12, 48),), ((16, 96), (24, 128))),
    ),
}


@MODELS.register_module()
class ConvMNet(BaseBackbone):
    """Network of Conv-M modules on the skeleton of GoogLeNet (arXiv 1703.04071).

    The paper's layer table is not known; this one is ours and has its 4.1 million parameters. With
    the output of stage 0 at stride 4, those of '4p1m' have 192, 384, 512 and 1024 channels at
    strides 4, 8, 16 and 32.

    Args:
        arch: '4p1m' for images of about 224 pixels; 'small' (0.05 million parameters, outputs of
            16, 48 and 128 channels at strides 1, 2 and 4) for 28 or 32 pixels; or a table, a dict
            with the keys of :data:`ARCHS`.
        in_channels: Of the images.
        out_indices: Stages whose outputs are returned, 0 is the stem; -1 is the last.
        frozen_stages: Stages 0 to this one get no gradient and stay in eval mode; -1: none.
        deconv: See :class:`ConvM`.
        norm_cfg: Normalisation, as in mmcv.
        act_cfg: Activation.
        norm_eval: Keep the statistics of batch norm in training.
        init_cfg: MMEngine's initialisation; ``dict(type='Pretrained', checkpoint=...)`` for
            weights.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> model = dict(
        ...     type='ImageClassifier',
        ...     backbone=dict(type='mmext.ConvMNet', arch='4p1m'),
        ...     neck=dict(type='GlobalAveragePooling'),
        ...     head=dict(type='LinearClsHead', num_classes=1000, in_channels=1024))

    Cost: '4p1m' 4.16 million parameters with a linear head of 1,000 classes and about 1 GMAC for
    an image of 224 pixels.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = '4p1m',
        in_channels: int = 3,
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1,
        deconv: str = 'resample',
        norm_cfg: dict | None = NORM,
        act_cfg: dict | None = RELU,
        norm_eval: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        table = _table(arch)
        widths = table['stem'], *table['stages']
        count = len(widths)
        for index in out_indices:
            if not -count <= index < count:
                raise ValueError(
                    f'out_indices={tuple(out_indices)}: the network has the stages 0 to {count - 1}'
                )
        if not -1 <= frozen_stages < count:
            raise ValueError(f'frozen_stages={frozen_stages} must be in -1..{count - 1}')
        self.out_indices = sorted({index % count for index in out_indices})
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        common = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.stages = nn.ModuleList([_stem(table, in_channels, common)])
        channels = table['stem'][-1]
        for stage in table['stages']:
            layers: list[nn.Module] = [nn.MaxPool2d(3, 2, padding=1)]
            for reduced, out in stage:
                layers.append(ConvM(channels, reduced, out, deconv, **common))
                channels = out
            self.stages.append(nn.Sequential(*layers))
        self._freeze()

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Images ``(N, C, H, W)`` to the outputs of the chosen stages, each ``(N, C_s, H_s, W_s)``.

        H_s is H over the stage's stride, rounded up.
        """
        outputs = []
        for index, stage in enumerate(self.stages):
            inputs = stage(inputs)
            if index in self.out_indices:
                outputs.append(inputs)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'ConvMNet':
        """Switch to training but for what is frozen."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for layer in self.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self

    def _freeze(self) -> None:
        for stage in self.stages[: self.frozen_stages + 1]:
            stage.eval()
            stage.requires_grad_(False)


def _table(arch: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'arch={arch!r} must be one of {", ".join(ARCHS)} or a table')
        return ARCHS[arch]
    known = ARCHS['4p1m'].keys()
    if arch.keys() != known:
        raise ValueError(f'arch has the keys {sorted(arch)}, it must have {sorted(known)}')
    if len(arch['stem']) not in (1, 3):
        raise ValueError(f'arch: stem={arch["stem"]} must have 1 or 3 numbers of channels')
    return arch


def _stem(table: Mapping[str, Any], in_channels: int, common: dict) -> nn.Sequential:
    first, *rest = table['stem']
    kernel = table['stem_kernel']
    layers: list[nn.Module] = [
        ConvModule(
            in_channels,
            first,
            kernel,
            stride=table['stem_stride'],
            padding=kernel // 2,
            **common,
        )
    ]
    if table['stem_pool']:
        layers.append(nn.MaxPool2d(3, 2, padding=1))
    if rest:
        layers.append(ConvModule(first, rest[0], 1, **common))
        layers.append(ConvModule(rest[0], rest[1], 3, padding=1, **common))
    return nn.Sequential(*layers)
