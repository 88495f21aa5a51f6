"""A command line's config: arguments that tools share, files, overlays and options."""

import argparse
import contextlib
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mmext.compat import distributed
from mmext.compat.mim import config_folder
from mmext.launch import identity, overlay
from mmext.launch.checkpoint import checkpoint_to_resume

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


class CfgOptions(DictAction):
    """MMEngine's action of ``--cfg-options`` that reports a malformed pair instead of crashing."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the ``key=value`` pairs of ``values`` to the namespace."""
        for pair in values or ():
            key, equals, value = pair.partition('=')
            if not key or not equals:
                parser.error(f'{option_string}: expected key=value, got {pair!r}')
            # MMEngine's parser takes them for strings, or never ends.
            if re.search(r'\bdict\(|\{', value):
                parser.error(
                    f'{option_string}: {pair!r} gives a dict; give its keys one by one, '
                    f'{key}.name=value'
                )
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
def user_errors(program: str, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn mistakes of the user inside the block into one line on stderr and exit code 2.

    These are ValueError, FileNotFoundError, and the TypeError of an argument that a class does not
    take.

    Args:
        program: Name that begins the line. Every rank writes it: torchrun ends all of them as soon
            as one has failed.
        unless: Errors are no mistakes of the user once it is true.
    """
    try:
        yield
    except (FileNotFoundError, ValueError, TypeError) as error:
        misspelt = 'unexpected keyword argument' in str(error)
        if unless() or (isinstance(error, TypeError) and not misspelt):
            raise
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
    config: str,
    cfg_options: Mapping[str, Any] | None = None,
    overlays: Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    resume: str | None = None,
    work_dir: str | None = None,
) -> Config:
    """Read a config, merge overlays into it and override some of its keys.

    Args:
        config: As in :func:`resolve_config`.
        cfg_options: Dotted key -> value, e.g. ``{'train_cfg.max_epochs': 3, 'pipeline.0.p': 0.5}``.
            Keys below the first level may be new; a new first-level key must be one that MMEngine
            reads, because any other would have no effect.
        overlays: Names of plugins, see :func:`mmext.launch.overlay.apply`; the options are merged
            after them.
        checkpoint: Weights that the config is for. Where they were trained with plugins that
            neither the config nor ``overlays`` has, those are merged.
        resume: As in :func:`mmext.launch.prepare`: the checkpoint to go on from, whose plugins
            are merged likewise, and other ones refused.
        work_dir: As there; where the checkpoint of ``resume='auto'`` lies.

    Returns:
        Config: With ``filename`` set, and the overlays noted under ``mmext_plugins``.

    Raises:
        FileNotFoundError: The config, one that it is based on, or the checkpoint does not exist.
        ValueError: The config cannot be parsed, an overlay or an option does not fit it, an
            option replaces the model or the optimizer wrapper of an overlay, or the training that
            shall be resumed had other plugins.
    """
    path = resolve_config(config)
    cfg = overlay.read(path)
    options = dict(cfg_options or {})
    if resume is not None:
        folder = work_dir or options.get('work_dir') or work_dir_of(cfg)
        checkpoint = checkpoint_to_resume(folder, resume)
    if checkpoint is not None:
        found = identity.resolve(cfg, overlays, checkpoint, resume is not None)
        overlays, options = found.names, {**found.options, **options}
    overlay.check_keys(cfg, options, overlays)
    if overlays:
        cfg = overlay.merge(cfg, overlays)
    kept = overlay.types_of(cfg, overlays)
    merge_options(cfg, options)
    overlay.refuse_replaced(kept, cfg)
    if overlays:
        identity.note(cfg, overlays, options, *overlay.complete(cfg, overlays, options))
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


def work_dir_of(cfg: Config) -> str:
    """The folder of a run whose command names none."""
    name = Path(cfg.filename or 'config').stem
    return str(cfg.get('work_dir') or Path('work_dirs', name))
