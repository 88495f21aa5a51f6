"""Overlays: a plugin merged into any config, ``tools/train.py CONFIG --with terngrad smoothout``.

An overlay is an ordinary config fragment, ``configs/overlays/<plugin>.py``. :func:`apply` merges it
by four rules:

- dicts merge; a value replaces the host's. Two overlays that set the same key are an error.
- ``custom_hooks`` are appended. A type that the host has already stays as the host set it up.
- ``optim_wrapper.type`` replaces ``OptimWrapper``. Where the host has ``AmpOptimWrapper``, the
  counterpart is taken: ``mmext.XOptimWrapper`` -> ``mmext.XAmpOptimWrapper``.
- ``dict(_host_='classifier')`` (or ``'detector'``) inside the fragment's ``model`` is where the
  host's model goes; without it, ``model`` merges like any dict.
"""

import copy
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS

from mmext.compat.mim import config_folder

HOST = '_host_'
# kind -> (package, module, class) of the host's models
_KINDS = {
    'classifier': ('mmpretrain', 'mmpretrain.models.classifiers', 'BaseClassifier'),
    'detector': ('mmdet', 'mmdet.models.detectors', 'BaseDetector'),
}
_PLAIN = {'OptimWrapper': '', 'AmpOptimWrapper': 'Amp'}


def available() -> list[str]:
    """Names that :func:`apply` knows, sorted."""
    return sorted(path.stem for path in _folder().glob('*.py'))


def load(name: str) -> dict[str, Any]:
    """Return the fragment of an overlay.

    Args:
        name: Name of a plugin, or the path of a ``.py`` fragment of one's own.

    Raises:
        ValueError: There is no such overlay; the message lists those there are.
    """
    path = Path(name) if name.endswith('.py') else _folder() / f'{name}.py'
    if not path.is_file():
        raise ValueError(f'there is no overlay {name!r}; choose from {", ".join(available())}')
    return Config.fromfile(path).to_dict()


def apply(cfg: Config, names: Sequence[str]) -> Config:
    """Return ``cfg`` with overlays merged in; ``cfg`` itself is not changed.

    Args:
        cfg: Config of the host: ours, mmdet's, mmpretrain's or the user's own.
        names: Overlays, as in :func:`load`. Their order does not matter except for that of the
            hooks.

    Raises:
        ValueError: Unknown or repeated overlay, two overlays that claim one key, or a host that an
            overlay cannot serve. The message names them and the mend.

    Example:
        >>> cfg = apply(Config.fromfile('lenet.py'), ['terngrad', 'smoothout'])
    """
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f'overlay {", ".join(repeated)} is given twice')
    fragments = {name: load(name) for name in names}
    _refuse_conflicts(fragments)
    result = copy.deepcopy(cfg)
    for name, fragment in fragments.items():
        _merge(result, name, fragment)
    return result


def difference(before: Config, after: Config) -> str:
    """Unified diff of two configs as Python text, '' where they are equal."""
    lines = difflib.unified_diff(
        before.pretty_text.splitlines(),
        after.pretty_text.splitlines(),
        'before',
        'after',
        lineterm='',
    )
    return '\n'.join(lines)


def claims(fragment: dict[str, Any]) -> list[str]:
    """Keys that an overlay sets, dotted, and ``custom_hooks[TYPE]`` for each hook."""
    return list(_claims(fragment))


def _claims(value: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, item in value.items():
        if not prefix and key == 'custom_hooks':
            yield from (f'custom_hooks[{hook["type"]}]' for hook in item)
        elif isinstance(item, dict) and item and HOST not in item:
            yield from _claims(item, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}'


def _refuse_conflicts(fragments: dict[str, dict[str, Any]]) -> None:
    owner: dict[str, str] = {}
    for name, fragment in fragments.items():
        for claim in claims(fragment):
            if claim in owner:
                raise ValueError(
                    f'overlays {owner[claim]} and {name} cannot be combined: both set {claim}; '
                    'leave one of them out'
                )
            owner[claim] = name


def _merge(cfg: Config, name: str, fragment: dict[str, Any]) -> None:
    fragment = copy.deepcopy(fragment)
    _append_hooks(cfg, name, fragment.pop('custom_hooks', []))
    kind = fragment.get('optim_wrapper', {}).get('type')
    if kind is not None:
        fragment['optim_wrapper']['type'] = _wrapper_type(cfg, name, kind)
    model = fragment.get('model')
    slot = _host_slot(model) if model else None
    if model and slot:
        del fragment['model']
        _wrap_model(cfg, name, model, slot)
    cfg.merge_from_dict(fragment)


def _append_hooks(cfg: Config, name: str, hooks: list[dict[str, Any]]) -> None:
    present = list(cfg.get('custom_hooks') or [])
    types = {hook['type'] for hook in present if isinstance(hook, dict)}
    for hook in hooks:
        if hook['type'] in types:
            print_log(
                f'--with {name}: the config has a {hook["type"]} already, which stays as it is',
                logger='current',
            )
        else:
            present.append(hook)
    if present:
        cfg.custom_hooks = present


def _wrapper_type(cfg: Config, name: str, kind: str) -> str:
    host = cfg.get('optim_wrapper')
    if host is None or 'optimizer' not in host:
        raise ValueError(
            f'--with {name} needs a config with one optimizer '
            '(optim_wrapper=dict(optimizer=...)); with several, set the type of each in the config'
        )
    present = host.get('type', 'OptimWrapper')
    short = present if isinstance(present, str) else present.__name__
    short = short.rpartition('.')[2]
    if short not in _PLAIN:
        raise ValueError(
            f'--with {name} replaces OptimWrapper or AmpOptimWrapper, but the config has '
            f'optim_wrapper.type={short!r}: leave out one of them'
        )
    return kind.removesuffix('OptimWrapper') + _PLAIN[short] + 'OptimWrapper'


def _host_slot(model: dict[str, Any], path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    for key, value in model.items():
        if isinstance(value, dict):
            found = (*path, key) if HOST in value else _host_slot(value, (*path, key))
            if found:
                return found
    return None


def _wrap_model(cfg: Config, name: str, model: dict[str, Any], slot: tuple[str, ...]) -> None:
    host = cfg.get('model')
    place = model
    for key in slot[:-1]:
        place = place[key]
    _check_kind(cfg, name, place[slot[-1]][HOST], host)
    # The Runner would give it to the outermost model.
    preprocessor = cfg.pop('data_preprocessor', None)
    if preprocessor is not None:
        host.setdefault('data_preprocessor', preprocessor)
    place[slot[-1]] = host
    # Config.merge would mix the keys of both models.
    cfg.model = model


def _check_kind(cfg: Config, name: str, kind: str, host: Any) -> None:
    package, module, base = _KINDS[kind]
    article = f'a {kind} of {package}'
    if not isinstance(host, dict):
        raise ValueError(f'--with {name} needs {article}, but the config has no model')
    found = host['type']
    if isinstance(found, str):
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            found = registry.get(found)
    bases = [f'{cls.__module__}.{cls.__name__}' for cls in getattr(found, '__mro__', ())]
    if not any(path.startswith(module) and path.endswith(f'.{base}') for path in bases):
        raise ValueError(
            f'--with {name} needs {article}, but the config has model.type={host["type"]!r}: '
            f'leave {name} out'
        )


def _folder() -> Path:
    return config_folder(Path(__file__).resolve().parents[1]) / 'overlays'
