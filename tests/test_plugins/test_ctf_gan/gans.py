"""Small GANs and batches for the tests."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement

import mmext  # noqa: F401

CONFIGS = Path(__file__).resolve().parents[3] / 'configs/ctf_gan'
RATES = dict(type='Adam', lr=1e-3, betas=(0.0, 0.9))


def model_cfg(size=16, classes=3, channels=1, transfer=True, **settings):
    """A GAN of some thousand weights: stages 4, 8 and 16."""
    cfg = dict(
        type='mmext.CTFGAN',
        generator=dict(type='mmext.SNGANGenerator', output_scale=size, num_classes=classes,
                       base_channels=8, out_channels=channels, noise_size=6, channels_cfg=[1, 1]),
        discriminator=dict(type='mmext.ProjDiscriminator', input_scale=size, num_classes=classes,
                           base_channels=8, input_channels=channels, channels_cfg=[1, 1],
                           downsample_cfg=[True, False]),
    )  # fmt: skip
    if transfer:
        cfg['transfer'] = dict(type='mmext.TransferNet', scales=(4, 8), base_channels=4)
    return {**cfg, **settings}


def build(seed=0, **settings):
    torch.manual_seed(seed)
    return MODELS.build(model_cfg(**settings))


def wrappers(model, optimizer=None, **each):
    """Optim wrappers of all networks; ``each`` goes into every entry."""
    from mmext.plugins.ctf_gan import GANOptimWrapperConstructor

    names = ['generator', 'discriminator'] + ['transfer'] * (model.transfer is not None)
    entry = dict(optimizer=optimizer or RATES, **each)
    return GANOptimWrapperConstructor(dict.fromkeys(names, entry))(model)


def batch(count=8, size=16, classes=3, channels=1, hq=None, seed=0):
    """Random images as a dataloader gives them; ``hq``: how many are of high quality."""
    draws = torch.Generator().manual_seed(seed)
    shape = count, channels, size, size
    images = torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)
    return {
        'inputs': {'img': images, 'lq': images // 2},
        'data_samples': [
            BaseDataElement(
                gt_label=torch.tensor([i % classes]),
                is_hq=hq is None or i < hq,
                sample_idx=i,
            )
            for i in range(count)
        ],
    }


def no_formatting() -> None:
    """Let MMEngine write configs as they are in this process, without seconds of formatting."""
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))


def config(work_dir, iters=4, seed=0):
    """The shipped digit config, shrunk: 60 images, one thread, no validation."""
    cfg = Config.fromfile(CONFIGS / 'ctf-gan-ssl_digits.py')
    cfg.work_dir = str(work_dir)
    cfg.model.generator.update(base_channels=8, noise_size=8)
    cfg.model.discriminator.base_channels = 8
    cfg.model.transfer.base_channels = 4
    cfg.model.discriminator_steps = 2
    loader = cfg.train_dataloader
    loader.batch_size = loader.sampler.batch_size = 8
    for source in loader.dataset.datasets:
        source.index_file = None
        source.dataset.indices = 100
    cfg.train_cfg.update(max_iters=iters, val_interval=1000)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=-1)
    cfg.default_hooks.logger.interval = 1
    cfg.custom_hooks = [
        dict(type='mmext.LabelHistogramHook'),
        dict(type='mmext.SampleGridHook', interval=2, columns=3),
    ]
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.randomness = dict(seed=seed)
    return cfg
