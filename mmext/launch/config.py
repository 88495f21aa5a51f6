"""The config of a run: a file, overlays and options."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmext.launch import identity, overlay
from mmext.launch.checkpoint import checkpoint_to_resume
from mmext.shipped import resolve_config

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
        config: As in :func:`mmext.shipped.resolve_config`.
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
