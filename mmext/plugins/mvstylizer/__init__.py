"""Mobile video style transfer with edge servers, MVStylizer (arXiv 2005.11630).

Only key frames are stylised by a network, at low resolution; meta-smoothing brings them to any size
and removes distortions; the frames between them are made from the originals by optical flow.
Written from the paper's abstract; networks, losses, the choice of key frames, flow, occlusion and
local affine propagation are ours.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'AffinePropagation': 'propagation',
        'Bicubic': 'upscalers',
        'BudgetAware': 'keyframes',
        'Decision': 'interfaces',
        'FixedInterval': 'keyframes',
        'FlowBlend': 'propagation',
        'Frame': 'interfaces',
        'GuidedAffine': 'upscalers',
        'GuidedFilter': 'upscalers',
        'Hold': 'propagation',
        'KeyFrame': 'interfaces',
        'KeyFramePolicy': 'interfaces',
        'MKLColorTransfer': 'color_transfer',
        'MetaSmoothing': 'meta_smoothing',
        'NeuralColorMapping': 'neural_color',
        'Propagation': 'interfaces',
        'ResidualTrigger': 'keyframes',
        'StyleCode': 'interfaces',
        'Stylizer': 'interfaces',
        'Upscaler': 'interfaces',
        'VideoStylizer': 'pipeline',
        'WarpPrevious': 'propagation',
        'WaveletStylizer': 'wavelet_stylizer',
        'pack_style': 'interfaces',
        'unpack_style': 'interfaces',
    },
)
