"""GANs with conditional transferring features, CTF-GAN (arXiv 1909.11308).

A transfer network learns to turn low-quality images into high-quality ones; its features, which
know the pixel-level changes between the two, are fed into the generator, and a rotation task adds
supervision that needs no labels. So a GAN shall do with fewer high-quality images. Only the
paper's abstract and introduction could be read: architecture, losses, where the features enter
and where they come from at sampling time are ours, each a switch of the config.
"""

from .data_preprocessor import GANDataPreprocessor
from .discriminator import ProjDiscriminator
from .generator import SNGANGenerator
from .label_histogram_hook import LabelHistogramHook
from .model import CTFGAN
from .optim_constructor import GANOptimWrapperConstructor
from .sample_grid_hook import SampleGridHook
from .transfer import TransferNet

__all__ = [
    'CTFGAN',
    'GANDataPreprocessor',
    'GANOptimWrapperConstructor',
    'LabelHistogramHook',
    'ProjDiscriminator',
    'SNGANGenerator',
    'SampleGridHook',
    'TransferNet',
]
