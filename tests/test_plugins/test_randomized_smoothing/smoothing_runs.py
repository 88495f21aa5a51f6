"""Short real trainings of the shipped digit config."""

from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[3] / 'configs/randomized_smoothing'


def no_formatting() -> None:
    """Let MMEngine write configs as they are in this process, without seconds of formatting."""
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))


def config(work_dir: Path, name: str = 'adre-adv_lenet_digits.py') -> Config:
    """The shipped config on 40 digits: two epochs of five iterations, no validation."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.work_dir = str(work_dir)
    cfg.model.classifier.backbone.features = 16
    cfg.model.classifier.head.in_channels = 16
    cfg.train_dataloader.batch_size = 8
    cfg.train_dataloader.dataset.indices = 40
    cfg.train_cfg.update(max_epochs=2, val_interval=9)
    cfg.param_scheduler[0].total_steps = 2
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.custom_hooks = []
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg
