"""GANs with conditional transferring features, CTF-GAN (arXiv 1909.11308).

A transfer network learns to turn low-quality images into high-quality ones; its features, which
know the pixel-level changes between the two, are fed into the generator, and a rotation task adds
supervision that needs no labels. So a GAN shall do with fewer high-quality images. Only the
paper's abstract and introduction could be read: architecture, losses, where the features enter
and where they come from at sampling time are ours, each a switch of the config.
"""

from mmext.lazy import exports

__getattr__, __all__ = exports(
    __name__,
    {
        'CTFGAN': 'model',
        'GANDataPreprocessor': 'data_preprocessor',
        'GANOptimWrapperConstructor': 'optim_constructor',
        'LabelHistogramHook': 'label_histogram_hook',
        'ProjDiscriminator': 'discriminator',
        'SNGANGenerator': 'generator',
        'SampleGridHook': 'sample_grid_hook',
        'TransferNet': 'transfer',
    },
)
