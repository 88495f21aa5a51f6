"""Short real trainings of the shipped digit-scene config on a small set of scenes."""

from pathlib import Path

from mmengine.config import Config

CONFIG = Path(__file__).resolve().parents[3] / 'configs/cst/cst_fcos_r18_digits.py'


def no_formatting() -> None:
    """Let MMEngine write configs as they are in this process, without seconds of formatting."""
    Config.pretty_text = property(lambda cfg: repr(cfg._cfg_dict))


def config(
    scenes: Path,
    work_dir: Path,
    max_iters: int = 4,
    name: str = CONFIG.name,
    validate: bool = False,
):
    """The shipped config on 6 labelled and 18 unlabelled scenes, from scratch, without workers."""
    cfg = Config.fromfile(CONFIG.parent / name)
    detector = cfg.model.get('detector', cfg.model)
    detector.backbone.init_cfg = None
    cfg.work_dir = str(work_dir)
    _point_at(cfg, scenes)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_iters=max_iters, val_interval=max_iters)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    cfg.default_hooks.logger.interval = 1
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.custom_hooks = [h for h in cfg.custom_hooks if h.type != 'mmext.CurvesHook']
    for hook in cfg.custom_hooks:
        if hook.type == 'mmext.CycleTeacherHook':
            hook.update(burn_in=2, ramp_up=0)
    if 'semi_train_cfg' in cfg.model:
        # An untrained teacher has no confident box.
        cfg.model.semi_train_cfg.update(score_thr=0.01, ignore_score_thr=None)
        detector.test_cfg.score_thr = 1e-4
    return cfg


def hook(cfg, name: str):
    """The custom hook of a type."""
    return next(h for h in cfg.custom_hooks if h.type == f'mmext.{name}')


def _point_at(node, scenes: Path) -> None:
    """Replace the shipped data root and fold by the small set's."""
    items = node.items() if hasattr(node, 'items') else enumerate(node)
    for key, value in list(items):
        if isinstance(value, str):
            value = value.replace('data/digit_scenes/', f'{scenes}/').replace('@2', '@25')
            node[key] = value
        elif hasattr(value, 'items') or isinstance(value, list):
            _point_at(value, scenes)
