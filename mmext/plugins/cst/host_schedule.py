"""A host's schedule in epochs, as one in iterations: batches of several sources have no epoch."""

import math
from typing import Any

from mmengine.config import Config

from mmext.compat.distributed import ranks_started
from mmext.registry import short_name

from .own_views import inside

_LOOPS = {'EpochBasedTrainLoop': True, 'IterBasedTrainLoop': False, 'ResumableIterTrainLoop': False}
# Of the parameter schedulers of MMEngine and MMDetection, what counts in epochs.
_POSITIONS = ('begin', 'end', 'T_max', 'step_size', 'total_steps')
_LISTS = ('milestones', 'periods')
_INFINITE = int(1e9)


def to_iterations(cfg: Config, images: int) -> str:
    """Give a config a training loop in iterations, in place.

    An epoch becomes the steps that the host would take over all images, labelled or not, at its
    own batch size on the ranks that were started. With ``train_cfg.max_iters`` beside
    ``max_epochs`` (of ``--cfg-options``) the schedule is stretched to that length.

    Args:
        cfg: Changed in place: loop, parameter schedulers, intervals of validation, checkpoints and
            the log.
        images: Of all sources.

    Returns:
        What the length is, in a line.

    Raises:
        ValueError: A training loop of another kind.
    """
    loop = dict(cfg.get('train_cfg') or {})
    by_epoch = _by_epoch(loop)
    loop.pop('by_epoch', None)
    if not by_epoch:
        cfg.train_cfg = {**loop, 'type': 'mmext.ResumableIterTrainLoop'}
        return f'{loop.get("max_iters")} iterations, as in the config'
    ranks = ranks_started()
    batch = cfg.train_dataloader.get('batch_size', 1)
    each = math.ceil(images / (batch * ranks)) * _repeats(cfg.train_dataloader.get('dataset'))
    epochs = loop.pop('max_epochs')
    length = loop.pop('max_iters', None)
    told = f'{length} iterations, to which the {epochs} epochs of the config are stretched'
    if length is None:
        length = epochs * each
        step = f'{batch} images' + (f' on each of {ranks} ranks' if ranks > 1 else '')
        told = f'{epochs} epochs of {each} steps with {step} are {length} iterations'
    steps = length / epochs

    def moved(epoch: float) -> int:
        return round(epoch * steps)

    for key in ('val_interval', 'val_begin'):
        # MMEngine validates after each epoch, from the first on.
        loop[key] = max(1, moved(loop.get(key, 1)))
    if loop.get('dynamic_intervals'):
        loop['dynamic_intervals'] = [
            (moved(begin), max(1, moved(every))) for begin, every in loop['dynamic_intervals']
        ]
    cfg.train_cfg = {**loop, 'type': 'mmext.ResumableIterTrainLoop', 'max_iters': length}
    if cfg.get('param_scheduler'):
        cfg.param_scheduler = _schedulers(cfg.param_scheduler, epochs, steps)
    _log_by_iterations(cfg, steps)
    return told


def _by_epoch(loop: dict[str, Any]) -> bool:
    kind = short_name(loop['type']) if 'type' in loop else None
    if kind is None:
        return bool(loop.get('by_epoch', True))
    if kind not in _LOOPS:
        raise ValueError(
            f"train_cfg.type={loop['type']!r}: one's own data have a schedule in "
            f'{" or ".join(_LOOPS)} only'
        )
    return _LOOPS[kind]


def _repeats(dataset: Any) -> int:
    """How often an epoch shows an image."""
    times = 1
    while dataset:
        if short_name(dataset.get('type', '')) == 'RepeatDataset':
            times *= dataset['times']
        dataset = inside(dataset)
    return times


def _schedulers(given: Any, epochs: int, steps: float) -> list[dict]:
    several = given if isinstance(given, list | tuple) else [given]
    found = [_scheduler(dict(scheduler), epochs, steps) for scheduler in several]
    # In a very short training some round to nothing, which MMEngine refuses.
    return [one for one in found if one.get('end', _INFINITE) > one.get('begin', 0)]


def _scheduler(scheduler: dict[str, Any], epochs: int, steps: float) -> dict[str, Any]:
    name = short_name(scheduler['type'])
    # That one follows the validation.
    if not scheduler.get('by_epoch', True) or name.startswith('ReduceOnPlateau'):
        return scheduler
    scheduler.pop('convert_to_iter_based', None)
    scheduler['by_epoch'] = False
    scheduler.setdefault('end', epochs)
    for key in _POSITIONS:
        if scheduler.get(key) is not None and scheduler[key] < _INFINITE:
            scheduler[key] = round(scheduler[key] * steps)
    for key in _LISTS:
        if key in scheduler:
            scheduler[key] = [round(epoch * steps) for epoch in scheduler[key]]
    if name.startswith('Exponential'):
        scheduler['gamma'] **= 1 / steps
    return scheduler


def _log_by_iterations(cfg: Config, steps: float) -> None:
    hooks = dict(cfg.get('default_hooks') or {})
    checkpoint = {'type': 'CheckpointHook', 'interval': 1, **(hooks.get('checkpoint') or {})}
    if checkpoint.get('by_epoch', True):
        checkpoint.update(by_epoch=False, interval=max(1, round(checkpoint['interval'] * steps)))
        hooks['checkpoint'] = checkpoint
    logger = {'type': 'LoggerHook', **(hooks.get('logger') or {}), 'log_metric_by_epoch': False}
    cfg.default_hooks = {**hooks, 'logger': logger}
    processor = {'type': 'LogProcessor', **(cfg.get('log_processor') or {})}
    cfg.log_processor = {**processor, 'by_epoch': False}
