"""Mobile video style transfer with edge servers, MVStylizer (arXiv 2005.11630).

Only key frames are stylised by a network, at low resolution; meta-smoothing brings them to any size
and removes distortions; the frames between them are made from the originals by optical flow.
Written from the paper's abstract; networks, losses, the choice of key frames, flow, occlusion and
local affine propagation are ours.
"""

from .interfaces import (
    Decision,
    Frame,
    KeyFrame,
    KeyFramePolicy,
    Propagation,
    StyleCode,
    Stylizer,
    Upscaler,
    pack_style,
    unpack_style,
)

__all__ = [
    'Decision',
    'Frame',
    'KeyFrame',
    'KeyFramePolicy',
    'Propagation',
    'StyleCode',
    'Stylizer',
    'Upscaler',
    'pack_style',
    'unpack_style',
]
