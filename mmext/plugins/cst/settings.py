"""Keys, defaults and checks of the two configs of ``CycleSelfTraining``."""

from typing import Any

NETWORKS = ('teacher1', 'teacher2', 'student1', 'student2')
PREDICT_ON = (*NETWORKS, 'ensemble')
#: Thresholds that are measured (:class:`~mmext.plugins.cst.thresholds.CountThresholds`).
COUNTED = ('count', 'class_count')
TRAIN_CFG_DEFAULTS: dict[str, Any] = {
    'score_thr': 0.5,
    'ignore_score_thr': None,
    'ignore_count': None,
    'score_power': 1.0,
    'odds_power': 2.0,
    'agnostic_nms_iou': None,
    'min_pseudo_bbox_wh': (1e-2, 1e-2),
    'sup_weight': 1.0,
    'unsup_weight': 1.0,
    'split_batch': False,
    'sequential_backward': False,
}
TEST_CFG_DEFAULTS: dict[str, Any] = {'predict_on': 'teacher1', 'fuse_iou_thr': 0.55}


def merge(name: str, defaults: dict, given: dict | None) -> dict:
    """Defaults overridden by what is given.

    Raises:
        ValueError: A key that the defaults do not have.
    """
    unknown = set(given or {}) - set(defaults)
    if unknown:
        raise ValueError(f'{name} has no key {sorted(unknown)}; it has {sorted(defaults)}')
    return {**defaults, **(given or {})}


def train_cfg(given: dict | None) -> dict:
    """Complete and check ``semi_train_cfg``.

    Raises:
        ValueError: An unknown key, or a value outside its range.
    """
    cfg = merge('semi_train_cfg', TRAIN_CFG_DEFAULTS, given)
    low, high, times = cfg['ignore_score_thr'], cfg['score_thr'], cfg['ignore_count']
    if high in COUNTED:
        if low is not None:
            raise ValueError(f'score_thr={high!r} goes with ignore_count, not ignore_score_thr')
        if times is not None and not times > 1:
            raise ValueError(f'semi_train_cfg.ignore_count={times} must be above 1 or None')
    elif isinstance(high, str) or not 0 <= high <= 1:
        raise ValueError(
            f'semi_train_cfg.score_thr={high!r} must be in [0, 1] or one of {list(COUNTED)}'
        )
    elif times is not None:
        raise ValueError(f'ignore_count={times} needs score_thr to be one of {list(COUNTED)}')
    elif low is not None and not 0 <= low <= high:
        raise ValueError(
            f'semi_train_cfg.ignore_score_thr={low} must be in [0, score_thr={high}] or None'
        )
    iou = cfg['agnostic_nms_iou']
    if iou is not None and not 0 < iou < 1:
        raise ValueError(f'semi_train_cfg.agnostic_nms_iou={iou} must be in (0, 1) or None')
    for key in ('sup_weight', 'unsup_weight'):
        if cfg[key] < 0:
            raise ValueError(f'semi_train_cfg.{key}={cfg[key]} must not be negative')
    return cfg
