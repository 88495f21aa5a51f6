"""Enters the parts of MVStylizer into the registries; the parts themselves need no MMEngine."""

from mmext.registry import KEYFRAME_POLICIES, MODELS, PROPAGATIONS, STYLIZERS, UPSCALERS

from .color_transfer import MKLColorTransfer
from .keyframes import BudgetAware, FixedInterval, ResidualTrigger
from .meta_smoothing import MetaSmoothing
from .neural_color import NeuralColorMapping
from .propagation import AffinePropagation, FlowBlend, Hold, WarpPrevious
from .upscalers import Bicubic, GuidedAffine, GuidedFilter
from .wavelet_stylizer import WaveletStylizer

for _registry, _parts in (
    (STYLIZERS, (MKLColorTransfer, NeuralColorMapping, WaveletStylizer)),
    (UPSCALERS, (Bicubic, GuidedAffine, GuidedFilter, MetaSmoothing)),
    (PROPAGATIONS, (AffinePropagation, FlowBlend, Hold, WarpPrevious)),
    (KEYFRAME_POLICIES, (BudgetAware, FixedInterval, ResidualTrigger)),
    (MODELS, (MetaSmoothing, NeuralColorMapping, WaveletStylizer)),
):
    for _part in _parts:
        _registry.register_module(module=_part)
