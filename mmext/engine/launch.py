"""What ``tools/train.py`` and ``tools/test.py`` do between the command line and the Runner.

The functions change a :class:`~mmengine.config.Config` in place and know no argparse, so that a
notebook or a test can take the same steps: :func:`load_config`, :func:`prepare` or
:func:`prepare_test`, :func:`build_runner`. Mistakes of the user are ValueError or
FileNotFoundError, raised before anything is built.
"""

import argparse
import contextlib
import difflib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import METRICS, OPTIM_WRAPPERS, RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from mmext.compat import distributed
from mmext.compat.mim import config_folder
from mmext.engine import overlay
from mmext.engine.annotations import check_annotations
from mmext.engine.checkpoint import check_checkpoint

__all__ = [
    'CfgOptions',
    'add_common_arguments',
    'add_overlay_argument',
    'build_runner',
    'check_checkpoint',
    'dump_results',
    'load_config',
    'merge_options',
    'prepare',
    'prepare_test',
    'resolve_config',
    'user_errors',
]

# Keys of a config that MMEngine and the hosts read besides the arguments of Runner.
_OTHER_KEYS = {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}

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


class CfgOptions(DictAction):
    """MMEngine's action of ``--cfg-options`` that reports a malformed pair instead of crashing."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the ``key=value`` pairs of ``values`` to the namespace."""
        for pair in values or ():
            if not pair.partition('=')[0] or '=' not in pair:
                parser.error(f'{option_string}: expected key=value, got {pair!r}')
        super().__call__(parser, namespace, values, option_string)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``tools/train.py`` and ``tools/test.py`` share."""
    parser.add_argument(
        '--work-dir', help='folder of logs and checkpoints (default: work_dirs/<config name>)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override keys of the config: a.b=1 c="[1,2]" d.0.e=x',
    )
    add_overlay_argument(parser)
    parser.add_argument(
        '--launcher',
        choices=distributed.LAUNCHERS,
        default='none',
        help='what has started the ranks',
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_overlay_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--with``; the names arrive as ``args.overlays``."""
    parser.add_argument(
        '--with',
        dest='overlays',
        nargs='+',
        default=[],
        metavar='PLUGIN',
        help=f'add plugins to the config: {", ".join(overlay.available())}',
    )


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn mistakes of the user inside the block into one line on stderr and exit code 2.

    Args:
        program: Name that begins the line. Every rank writes it: torchrun ends all of them as soon
            as one has failed.
    """
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f'{program}: error: {error}\n')
        raise SystemExit(2) from error


def resolve_config(config: str) -> str:
    """Return the path of a config file.

    Args:
        config: Path, or ``'pkg::relative/config.py'``, a file below the configs of an installed
            OpenMMLab package (``mmext``, ``mmdet``, ``mmpretrain`` …).

    Raises:
        FileNotFoundError: There is no such file or package; the message names similar files.
    """
    package, external, relative = config.rpartition('::')
    folder = _config_folder(package, config) if external else Path(config).parent
    path = folder / relative if external else Path(config)
    if path.is_file():
        return str(path)
    nearby = folder.rglob('*.py') if external else folder.glob(f'*{path.suffix}')
    names = [file.relative_to(folder).as_posix() for file in nearby]
    close = difflib.get_close_matches(relative if external else path.name, names, n=3)
    hint = f'; similar: {", ".join(close)}' if close else ''
    raise FileNotFoundError(f'config file {config} does not exist{hint}')


def _config_folder(package: str, config: str) -> Path:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f'config {config}: the package {package!r} is not installed: pip install {package}'
        )
    return config_folder(Path(spec.submodule_search_locations[0]))


def load_config(
    config: str, cfg_options: Mapping[str, Any] | None = None, overlays: Sequence[str] = ()
) -> Config:
    """Read a config, merge overlays into it and override some of its keys.

    Args:
        config: As in :func:`resolve_config`.
        cfg_options: Dotted key -> value, e.g. ``{'train_cfg.max_epochs': 3, 'pipeline.0.p': 0.5}``.
            Keys below the first level may be new; a new first-level key must be one that MMEngine
            reads, because any other would have no effect.
        overlays: Names of plugins, see :func:`mmext.engine.overlay.apply`; the options are merged
            after them.

    Returns:
        Config: With ``filename`` set.

    Raises:
        FileNotFoundError: The config, or one that it is based on, does not exist.
        ValueError: The config cannot be parsed, an overlay or an option does not fit it, or an
            option replaces the model or the optimizer wrapper of an overlay.
    """
    path = resolve_config(config)
    cfg = overlay.read(path)
    if overlays:
        cfg = overlay.apply(cfg, overlays)
    kept = overlay.types_of(cfg, overlays)
    merge_options(cfg, cfg_options or {})
    overlay.refuse_replaced(kept, cfg)
    return cfg


def merge_options(cfg: Config, cfg_options: Mapping[str, Any]) -> None:
    """Merge the overrides of :func:`load_config` into ``cfg``.

    Raises:
        ValueError: A first-level key is unknown, or a key leads through something that has no keys.
    """
    readable = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | _OTHER_KEYS
    for key in cfg_options:
        first = key.partition('.')[0]
        if first not in cfg and first not in readable:
            close = difflib.get_close_matches(first, sorted({*cfg.keys(), *readable}), n=3)
            raise ValueError(
                f'--cfg-options {key}: neither the config {cfg.filename} nor MMEngine has the key '
                f'{first!r}' + (f'; did you mean {" or ".join(close)}?' if close else '')
            )
    try:
        cfg.merge_from_dict(dict(cfg_options))
    except (KeyError, TypeError, AttributeError) as error:
        given = ' '.join(f'{key}={value}' for key, value in cfg_options.items())
        raise ValueError(f'--cfg-options {given} does not fit the config: {error}') from error


def prepare(
    cfg: Config,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    channels_last: bool = False,
    auto_scale_lr: bool = False,
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
    _set_dataloader_defaults(cfg, ('train_dataloader', 'val_dataloader'))
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
    _check_exists(checkpoint, 'checkpoint')
    check_annotations(cfg, ['test_dataloader'])
    _set_work_dir(cfg, work_dir)
    cfg.load_from = checkpoint
    cfg.resume = False
    if show_dir is not None:
        _enable_drawing(cfg, show_dir)
    _set_dataloader_defaults(cfg, ('test_dataloader',))
    distributed.setup(cfg, launcher, training=False)


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of ``cfg``, or the class that ``cfg.runner_type`` names."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def dump_results(runner: Runner, out: str) -> None:
    """Let the coming test of ``runner`` write its predictions to the pickle file ``out``.

    In mmdet the masks are run-length encoded and the ground truth is left out.
    """
    detection = runner.cfg.get('default_scope') == 'mmdet'
    kind = 'mmdet.DumpDetResults' if detection else 'DumpResults'
    metric = METRICS.build({'type': kind, 'out_file_path': out})
    runner.test_evaluator.metrics.append(metric)


def _set_work_dir(cfg: Config, work_dir: str | None) -> None:
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(cfg.filename or 'config').stem)


def _check_exists(checkpoint: str, what: str) -> None:
    if '://' not in checkpoint and not os.path.exists(checkpoint):
        raise FileNotFoundError(f'{what} {checkpoint} does not exist')


def _set_resume(cfg: Config, resume: str) -> None:
    if resume != 'auto':
        _check_exists(resume, '--resume: the checkpoint')
        cfg.resume, cfg.load_from = True, resume
        return
    latest = find_latest_checkpoint(cfg.work_dir)
    if latest is None:
        # MMEngine would forget load_from and start from random weights.
        print_log(f'Nothing to resume in {cfg.work_dir}: an ordinary start.', logger='current')
        cfg.resume = False
        return
    # MMEngine notes an absolute path, which is wrong once the work dir has moved.
    name = Path(latest).name
    moved = os.path.join(cfg.work_dir, name)
    if name and '://' not in latest and not os.path.exists(latest) and os.path.exists(moved):
        print_log(f'{latest} is gone: {moved} is taken in its place.', logger='current')
        cfg.resume, cfg.load_from = True, moved
        return
    _check_exists(latest, f'--resume: {cfg.work_dir}/last_checkpoint names a file that is gone;')
    cfg.resume, cfg.load_from = True, None


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
