"""Short real trainings of the shipped digit config."""

from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[3] / 'configs/conv_m'


def no_formatting() -> None:
    """Let MMEngine write configs as they are in this process, without seconds of formatting."""
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))


def config(work_dir: Path, iterations: int = 4) -> Config:
    """Font digits to handwritten ones: 8 + 8 images in a batch, a checkpoint every 2 iterations."""
    cfg = Config.fromfile(CONFIGS / 'conv-m-da_fontdigits2digits.py')
    cfg.work_dir = str(work_dir)
    cfg.train_dataloader.batch_size = cfg.train_dataloader.sampler.batch_size = 16
    cfg.train_dataloader.dataset.source.num_samples = 40
    cfg.train_dataloader.dataset.target.indices = 40
    cfg.val_dataloader.dataset.indices = 30
    cfg.train_cfg.update(max_iters=iterations, val_interval=2)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=-1)
    cfg.default_hooks.logger.interval = 1
    cfg.custom_hooks = [dict(type='mmext.IterSeedHook'), dict(type='mmext.AccuracyReportHook')]
    return cfg
