"""From a config to the Runner: what one training or one test run needs in its config."""

import functools
import os
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import METRICS, OPTIM_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import nn

from mmext.compat import distributed, environment
from mmext.engine.hooks import RichProgressHook
from mmext.launch import identity
from mmext.launch.annotations import check_annotations
from mmext.launch.arguments import check_arguments
from mmext.launch.checkpoint import check_checkpoint, check_exists, checkpoint_to_resume
from mmext.launch.config import work_dir_of
from mmext.launch.console import ShortStartHook, say, short_start

# default_scope -> (hook that draws, its switches, key of its folder, visualizer)
_DRAWING: dict[str, tuple[str, dict[str, Any], str, str]] = {
    'mmdet': ('DetVisualizationHook', {'draw': True}, 'test_out_dir', 'DetLocalVisualizer'),
    'mmpretrain': (
        'VisualizationHook',
        {'enable': True, 'interval': 1},
        'out_dir',
        'UniversalVisualizer',
    ),
}


def prepare(
    cfg: Config,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    channels_last: bool = False,
    auto_scale_lr: bool = False,
    shard: bool = False,
    launcher: str = 'none',
) -> None:
    """Put the choices of one training run into ``cfg`` and join the other ranks.

    Args:
        cfg: Changed in place.
        work_dir: Folder of logs and checkpoints; None: the config's, else
            ``work_dirs/<config name>``.
        resume: Checkpoint to go on from, or ``'auto'``: the latest one in the work dir, also if
            the folder has moved, and where there is none yet, an ordinary start (with
            ``cfg.load_from``). None: as in the config.
        amp: Train in mixed precision: on a GPU with the Amp counterpart of the optimizer wrapper,
            on a CPU with ``mmext.AutocastHook``.
        channels_last: Add ``mmext.ChannelsLastHook``.
        auto_scale_lr: Scale the learning rate with the total batch size.
        shard: Train with :class:`mmext.engine.sharding.ShardedRunner`, which takes the strategy of
            the config.
        launcher: As in :func:`mmext.compat.distributed.setup`.

    Raises:
        FileNotFoundError: The checkpoint to resume from or an annotation file does not exist.
        ValueError: The config cannot do what is asked, or an annotation file does not fit it.
    """
    missing = [key for key in ('model', 'train_dataloader', 'train_cfg') if cfg.get(key) is None]
    if missing:
        raise ValueError(f'config {cfg.filename} cannot be trained: it has no {", ".join(missing)}')
    check_annotations(cfg)
    _set_work_dir(cfg, work_dir)
    if resume is not None:
        _set_resume(cfg, resume)
    if identity.of_config(cfg) is None:
        identity.note(cfg, (), {})
    if amp:
        _enable_amp(cfg)
    if channels_last:
        _add_hook(cfg, 'mmext.ChannelsLastHook')
    if auto_scale_lr:
        scale = cfg.get('auto_scale_lr')
        if not scale or 'base_batch_size' not in scale:
            raise ValueError(
                '--auto-scale-lr needs the total batch size that the learning rate is meant for: '
                'put auto_scale_lr=dict(base_batch_size=...) into the config'
            )
        scale.enable = True
    if shard:
        _enable_sharding(cfg, launcher)
    _set_dataloader_defaults(cfg, ('train_dataloader', 'val_dataloader'))
    check_arguments(cfg)
    distributed.setup(cfg, launcher)


def prepare_test(
    cfg: Config,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    launcher: str = 'none',
) -> None:
    """Put the choices of one test run into ``cfg`` and join the other ranks.

    Args:
        cfg: Changed in place.
        checkpoint: Weights to test; a path, or an address that MMEngine can load.
        work_dir: As in :func:`prepare`.
        out: Pickle file for the predictions, checked here and written by :func:`dump_results`.
        show_dir: Folder for images with the predictions drawn in (mmdet, mmpretrain).
        launcher: As in :func:`mmext.compat.distributed.setup`.

    Raises:
        FileNotFoundError: The checkpoint or an annotation file does not exist.
        ValueError: The config cannot do what is asked, or an annotation file does not fit it.
    """
    missing = [key for key in ('model', 'test_dataloader', 'test_cfg') if cfg.get(key) is None]
    if missing:
        raise ValueError(f'config {cfg.filename} cannot be tested: it has no {", ".join(missing)}')
    if out is not None and not out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out must end in .pkl or .pickle, got {out}')
    check_exists(checkpoint)
    check_annotations(cfg, ['test_dataloader'])
    _set_work_dir(cfg, work_dir)
    cfg.load_from = checkpoint
    cfg.resume = False
    if show_dir is not None:
        _enable_drawing(cfg, show_dir)
    _set_dataloader_defaults(cfg, ('test_dataloader',))
    distributed.setup(cfg, launcher, training=False)


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of ``cfg``, or the class that ``cfg.runner_type`` names.

    The terminal shows a short start and, if it is one, a progress bar; the log file has all. The
    first one of a process says if mmext is untested with the versions that are installed.

    Raises:
        ValueError: The checkpoint to resume from does not fit the model, which would go on with
            random weights.
    """
    _warn_untested()
    with short_start() as hook:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(hook)
    if not any(isinstance(hook, RichProgressHook) for hook in runner.hooks):
        runner.register_hook(RichProgressHook())
    if cfg.get('resume') and cfg.get('load_from'):
        # FlexibleRunner builds its model later.
        if isinstance(runner.model, nn.Module):
            check_checkpoint(runner.model, cfg.load_from)
        runner.register_hook(identity.FreshScalars())
    return runner


def built(runner: Runner) -> bool:
    """Whether a training has all its parts, so that what fails is no mistake in the config."""
    return any(hook.built for hook in runner.hooks if isinstance(hook, ShortStartHook))


def dump_results(runner: Runner, out: str) -> None:
    """Let the coming test of ``runner`` write its predictions to the pickle file ``out``.

    In mmdet the masks are run-length encoded and the ground truth is left out.
    """
    detection = runner.cfg.get('default_scope') == 'mmdet'
    kind = 'mmdet.DumpDetResults' if detection else 'DumpResults'
    metric = METRICS.build({'type': kind, 'out_file_path': out})
    runner.test_evaluator.metrics.append(metric)


@functools.cache
def _warn_untested() -> None:
    """Once in a process."""
    if said := environment.untested():
        say(said)


def _set_work_dir(cfg: Config, work_dir: str | None) -> None:
    cfg.work_dir = work_dir_of(cfg) if work_dir is None else work_dir


def _set_resume(cfg: Config, resume: str) -> None:
    checkpoint = checkpoint_to_resume(cfg.work_dir, resume)
    if checkpoint is None:
        # MMEngine would forget load_from and start from random weights.
        print_log(f'Nothing to resume in {cfg.work_dir}: an ordinary start.', logger='current')
        cfg.resume = False
    else:
        cfg.resume, cfg.load_from = True, checkpoint


def _add_hook(cfg: Config, kind: str) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    # A class in a config of Python's syntax has no scope in its name.
    if not any(_name(hook['type']).endswith(kind.partition('.')[2]) for hook in hooks):
        cfg.custom_hooks = [*hooks, {'type': kind}]


def _name(kind: str | type) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _enable_amp(cfg: Config) -> None:
    if get_device() in ('cpu', 'mps'):
        _add_hook(cfg, 'mmext.AutocastHook')
        return
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None or 'optimizer' not in wrapper:
        raise ValueError(
            '--amp needs a config with one optimizer (optim_wrapper=dict(optimizer=...)); with '
            'several, choose AmpOptimWrapper for each of them in the config'
        )
    kind = wrapper.get('type', 'OptimWrapper')
    name = _name(kind)
    if not name.endswith('AmpOptimWrapper'):
        amp_name = name.removesuffix('OptimWrapper') + 'AmpOptimWrapper'
        if OPTIM_WRAPPERS.get(amp_name) is None:
            raise ValueError(
                f'--amp: the optimizer wrapper {name!r} has no counterpart {amp_name!r}: leave '
                'out --amp or choose another optim_wrapper.type'
            )
        wrapper.type = amp_name
    wrapper.setdefault('loss_scale', 'dynamic')


def _enable_sharding(cfg: Config, launcher: str) -> None:
    if launcher == 'none':
        raise ValueError(
            '--shard spreads the model over ranks, and there is only one: start them with '
            'bash tools/dist_train.sh CONFIG N --shard'
        )
    kind = cfg.get('runner_type', 'Runner')
    if _name(kind).rpartition('.')[2] not in ('Runner', 'FlexibleRunner', 'ShardedRunner'):
        raise ValueError(f'--shard sets runner_type, and the config has {_name(kind)!r} already')
    strategy = cfg.get('strategy') or {'type': 'mmext.FSDP2Strategy'}
    if cfg.get('sync_bn') is not None:
        strategy.setdefault('sync_bn', cfg.sync_bn)
    if (cfg.get('model_wrapper_cfg') or {}).get('broadcast_buffers'):
        strategy.setdefault('broadcast_buffers', True)
    cfg.runner_type, cfg.strategy = 'mmext.ShardedRunner', strategy


def _enable_drawing(cfg: Config, show_dir: str) -> None:
    scope = cfg.get('default_scope')
    if scope not in _DRAWING:
        raise ValueError(
            f'--show-dir draws for configs with default_scope {" or ".join(_DRAWING)}, '
            f'this one has {scope!r}'
        )
    hook_type, switches, folder_key, visualizer = _DRAWING[scope]
    hooks = cfg.get('default_hooks') or {}
    hook = hooks.get('visualization') or {'type': f'{scope}.{hook_type}'}
    # Absolute, because mmdet puts a relative folder below <work_dir>/<timestamp>.
    drawing = {**hook, **switches, folder_key: os.path.abspath(show_dir)}
    cfg.default_hooks = {**hooks, 'visualization': drawing}
    if cfg.get('visualizer') is None:
        cfg.visualizer = {'type': f'{scope}.{visualizer}', 'name': 'visualizer'}


def _set_dataloader_defaults(cfg: Config, fields: tuple[str, ...]) -> None:
    # mmpretrain's configs rely on these defaults of its own tools.
    if cfg.get('default_scope') != 'mmpretrain':
        return
    for field in fields:
        loader = cfg.get(field)
        if loader is not None:
            loader.setdefault('pin_memory', get_device() == 'cuda')
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', {'type': 'default_collate'})
