"""Short real trainings of the shipped digit configs."""

from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[3] / 'configs/mat'


def no_formatting() -> None:
    """Let MMEngine write configs as they are in this process, without seconds of formatting."""
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))


def config(work_dir: Path, name: str = 'mat-mixed_lenet_digits.py', epochs: int = 2) -> Config:
    """The shipped config on 24 digits: three iterations an epoch, no validation."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.work_dir = str(work_dir)
    cfg.model.classifier.backbone.features = 16
    cfg.model.classifier.head.in_channels = 16
    cfg.train_dataloader.batch_size = 8
    cfg.train_dataloader.dataset.indices = 24
    cfg.test_dataloader.dataset.indices = 30
    cfg.test_dataloader.batch_size = 16
    cfg.train_cfg.update(max_epochs=epochs, val_interval=9)
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    cfg.default_hooks.logger.interval = 1
    cfg.custom_hooks = []
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg
