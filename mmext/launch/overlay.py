"""Overlays: a plugin merged into any config, ``mmext train CONFIG --with terngrad smoothout``.

An overlay is an ordinary config fragment, ``configs/overlays/<plugin>.py``. :func:`apply` merges it
by these rules:

- dicts merge; a value replaces the host's. Two overlays that set the same key, or one a key inside
  what the other sets, are an error.
- ``custom_hooks`` are appended. A type that the host has already stays as the host set it up; the
  types that the fragment lists in ``_replaces_`` leave.
- ``custom_imports``: the imports of both; they may fail only if both allow it.
- ``optim_wrapper.type`` replaces ``OptimWrapper``. Where the host has ``AmpOptimWrapper``, the
  counterpart is taken: ``mmext.XOptimWrapper`` -> ``mmext.XAmpOptimWrapper``. Where it has a
  wrapper for each network (GANs), each is replaced.
- ``dict(_host_='classifier')`` (or ``'detector'``) inside the fragment's ``model`` is where the
  host's model goes; of a semi-supervised detector, its ``detector``. Without it, ``model`` merges
  like any dict. ``dict(_host_='data_preprocessor')`` is a copy of that model's preprocessor.
- ``_host_ = 'classifier'`` (or ``'detector'``) at the top: the host must be one. Here and
  above, it must not be a model that a plugin has made.
- ``data_preprocessor`` merges into the host's, wherever the host keeps it.
- ``val_cfg`` and ``test_cfg`` merge where the host has them.
- ``_completes_ = 'package.module.function'``: called with the config and the options of the command
  line, which are merged by then; it changes the config and returns lines to say.
- ``_needs_ = dict(transform=..., fix=...)``: then the training data must have this transform.
- ``_keeps_ = [...]``: keys that neither another overlay nor the host may set.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmengine.utils import get_object_from_string

from mmext import shipped
from mmext.launch.console import say
from mmext.registry import short_name

HOST = '_host_'
# Keys at the top of a fragment that are rules and no config.
_RULES = (HOST, '_completes_', '_keeps_', '_needs_', '_replaces_')
# kind -> (package, module, class) of the host's models
_KINDS = {
    'classifier': ('mmpretrain', 'mmpretrain.models.classifiers', 'BaseClassifier'),
    'detector': ('mmdet', 'mmdet.models.detectors', 'BaseDetector'),
}
_PLAIN = {'OptimWrapper': '', 'AmpOptimWrapper': 'Amp'}
#: Key of a config that nothing but an overlay reads -> the overlay.
READ_BY = {'semi': 'cst'}


def load(name: str) -> dict[str, Any]:
    """Return the fragment of an overlay.

    Args:
        name: Name of a plugin, or the path of a ``.py`` fragment of one's own.

    Raises:
        ValueError: There is no such overlay, and the message lists those there are; or it is no
            config fragment.
    """
    path = Path(name) if name.endswith('.py') else shipped.overlay_folder() / f'{name}.py'
    if not path.is_file():
        known = ', '.join(shipped.overlays())
        raise ValueError(f'there is no overlay {name!r}; choose from {known}')
    fragment = read(path).to_dict()
    hooks = fragment.get('custom_hooks', [])
    if not isinstance(hooks, list | tuple) or not all(
        isinstance(hook, dict) and 'type' in hook for hook in hooks
    ):
        raise ValueError(
            f'overlay {name}: custom_hooks={hooks!r} must be a list of dicts with a type each'
        )
    return fragment


def read(path: str | Path) -> Config:
    """Return the config in a file.

    Raises:
        ValueError: The file cannot be parsed.
    """
    try:
        return Config.fromfile(path)
    # RuntimeError is MMEngine's ConfigParsingError, KeyError a key that two bases define.
    except (SyntaxError, ImportError, KeyError, RuntimeError) as error:
        raise ValueError(f'config file {path} cannot be loaded: {error}') from error


def apply(cfg: Config, names: Sequence[str]) -> Config:
    """Return ``cfg`` with overlays merged in; ``cfg`` itself is not changed.

    Args:
        cfg: Config of the host: ours, mmdet's, mmpretrain's or the user's own.
        names: Overlays, as in :func:`load`. Their order does not matter except for that of the
            hooks.

    Raises:
        ValueError: Unknown or repeated overlay, two overlays that claim one key, or a host that an
            overlay cannot serve or does not fit. The message names them and the fix.

    Example:
        >>> cfg = apply(Config.fromfile('lenet.py'), ['terngrad', 'smoothout'])
    """
    result = merge(cfg, names)
    complete(result, names, {})
    return result


def merge(cfg: Config, names: Sequence[str]) -> Config:
    """The first half of :func:`apply`, after which options may change what is merged."""
    if isinstance(names, str):
        raise ValueError(f'names={names!r} must be a list of overlays: [{names!r}]')
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f'overlay {", ".join(repeated)} is given twice')
    fragments = {name: load(name) for name in names}
    _refuse_conflicts(fragments)
    result = copy.deepcopy(cfg)
    # Wrappers last: what the others put into the host's model goes into the wrapper with it.
    for name in sorted(names, key=lambda name: bool(_slots(fragments[name].get('model')))):
        _merge(result, name, fragments[name])
    return result


def complete(
    cfg: Config, names: Sequence[str], options: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """The second half of :func:`apply`: what depends on the options.

    Args:
        cfg: Of :func:`merge`, with the options; changed in place.
        names: Its overlays.
        options: Dotted key -> value, as they were merged.

    Returns:
        What was chosen, one line each, which is said as well; and the keys of ``cfg`` that have
        changed.

    Raises:
        ValueError: The config lacks what an overlay needs; the message names the fix.
    """
    lines: list[str] = []
    before = cfg.to_dict()
    for name in names:
        fragment = load(name)
        if '_completes_' in fragment:
            chosen = get_object_from_string(fragment['_completes_'])(cfg, options)
            lines += [f'--with {name}: {line}' for line in chosen]
        if '_needs_' in fragment:
            _check_data(cfg, name, **fragment['_needs_'])
    for line in lines:
        say(line)
    after = cfg.to_dict()
    return lines, [key for key in after if after[key] != before.get(key)]


def check_keys(cfg: Config, options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse options that only an overlay reads, where it is left out; say so of a config's key.

    Args:
        cfg: Of the host.
        options: Of the command line, dotted key -> value.
        names: Its overlays.

    Raises:
        ValueError: Names the option and the fix.
    """
    for key, name in READ_BY.items():
        given = [option for option in options if option.partition('.')[0] == key]
        if not (given or key in cfg) or any(key in load(other) for other in names):
            continue
        if given:
            raise ValueError(
                f'{given[0]} (or the option that is short for it) is read by --with {name} only: '
                f'add --with {name}'
            )
        say(f'{key} of the config is read by --with {name} only')


def types_of(cfg: Config, names: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """What the overlays of a config are: dotted key of a type -> overlay, and the type.

    Args:
        cfg: As :func:`apply` returned it.
        names: Its overlays.
    """
    return {
        key: (name, kind)
        for name in names
        for section, part in load(name).items()
        if section in ('model', 'optim_wrapper') and 'type' in (part or {})
        for key, kind in _types(cfg, section).items()
    }


def refuse_replaced(kept: dict[str, tuple[str, Any]], cfg: Config) -> None:
    """Refuse options that replace what an overlay is: its model or its optimizer wrapper.

    Args:
        kept: Of :func:`types_of`, before the options.
        cfg: With the options. Other keys may differ, and one wrapper may stand for its counterpart
            in or out of mixed precision.

    Raises:
        ValueError: The message names the overlay, the key and the fix.
    """
    for key, (name, kind) in kept.items():
        section = key.partition('.')[0]
        found = _types(cfg, section).get(key)
        if found is not None and _stem(short_name(found)) == _stem(short_name(kind)):
            continue
        fix = 'leave out one of them'
        if section == 'optim_wrapper':
            fix += f'; for mixed precision write {key}={_stem(kind)}AmpOptimWrapper'
        raise ValueError(
            f'--cfg-options: {key}={found!r} would replace {kind!r}, which --with {name} '
            f'sets: {fix}'
        )


def _types(cfg: Config, section: str) -> dict[str, Any]:
    """Dotted key -> type of the model, or of each optimizer wrapper."""
    host = cfg.get(section) or {}
    parts = _wrappers(host) if section == 'optim_wrapper' else {'': host}
    return {
        '.'.join(filter(None, (section, part, 'type'))): value.get('type')
        for part, value in parts.items()
    }


def serves(name: str) -> str | None:
    """Kind of the hosts that an overlay serves, ``'classifier'`` or ``'detector'``; None: all."""
    return _kind(load(name))


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
    """Keys that an overlay sets and none else may, dotted; hooks as ``custom_hooks[TYPE]``."""
    return list(_claims(fragment))


def _claims(value: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, item in value.items():
        if not prefix and key in (*_RULES, 'custom_imports'):
            continue
        if not prefix and key == 'custom_hooks':
            yield from (f'custom_hooks[{short_name(hook["type"])}]' for hook in item)
        elif isinstance(item, dict) and item and HOST not in item:
            yield from _claims(item, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}'


def _kind(fragment: dict[str, Any]) -> str | None:
    slots = _slots(fragment.get('model'))
    return fragment.get(HOST) or next((kind for kind in slots if kind in _KINDS), None)


def _refuse_conflicts(fragments: dict[str, dict[str, Any]]) -> None:
    owner: dict[str, str] = {}
    needed: dict[str, str] = {}
    for name, fragment in fragments.items():
        own = claims(fragment)
        for claim in own:
            other = next((taken for taken in owner if overlap(taken, claim)), None)
            if other is not None:
                raise ValueError(
                    f'overlays {owner[other]} and {name} cannot be combined: both set '
                    f'{min(claim, other, key=len)}; leave one of them out'
                )
        owner.update(dict.fromkeys(own, name))
        kind = _kind(fragment)
        if kind is not None:
            needed[kind] = name
    for name, fragment in fragments.items():
        for kept in fragment.get('_keeps_', ()):
            setters = (o for c, o in owner.items() if o != name and overlap(c, kept))
            setter = next(setters, None)
            if setter is not None:
                raise ValueError(
                    f'overlays {setter} and {name} cannot be combined: {setter} sets {kept}, which '
                    f'{name} must have for itself; leave one of them out'
                )
    if len(needed) > 1:
        (one, first), (other, second) = needed.items()
        raise ValueError(
            f'overlays {first} and {second} cannot be combined: {first} needs a {one}, {second} a '
            f'{other}; leave one of them out'
        )


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same or one lies inside the other."""
    return f'{one}.'.startswith(f'{other}.') or f'{other}.'.startswith(f'{one}.')


def _merge(cfg: Config, name: str, fragment: dict[str, Any]) -> None:
    fragment = copy.deepcopy(fragment)
    kind = _kind(fragment)
    bases = [] if kind is None else _check_kind(cfg, name, kind)
    rules = {key: fragment.pop(key, None) for key in _RULES}
    taken = [place for key in rules['_keeps_'] or () for place in _places(cfg, key)]
    if taken:
        raise ValueError(
            f'--with {name} must have {", ".join(taken)} for itself, but the config sets it: take '
            f'it out of the config, or leave {name} out'
        )
    model = fragment.get('model')
    slots = _slots(model)
    if model and slots:
        del fragment['model']
        _wrap_model(cfg, name, model, slots, bases)
    _change_hooks(cfg, name, fragment.pop('custom_hooks', []), rules['_replaces_'] or ())
    _merge_imports(cfg, fragment.pop('custom_imports', None))
    if 'type' in (fragment.get('optim_wrapper') or {}):
        fragment['optim_wrapper'] = _wrapper_changes(cfg, name, fragment['optim_wrapper'])
    if 'data_preprocessor' in fragment:
        _merge_preprocessor(cfg, name, fragment.pop('data_preprocessor'))
    for loop in ('val_cfg', 'test_cfg'):
        if cfg.get(loop) is None:
            fragment.pop(loop, None)
    try:
        cfg.merge_from_dict(fragment)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'--with {name} does not fit the config: {error}') from error


def _merge_imports(cfg: Config, changes: dict[str, Any] | None) -> None:
    if not changes:
        return
    parts = [part for part in (cfg.get('custom_imports'), changes) if part]
    modules: list[str] = []
    for part in parts:
        found = part.get('imports') or []
        modules += [found] if isinstance(found, str) else found
    cfg.custom_imports = {
        'imports': list(dict.fromkeys(modules)),
        'allow_failed_imports': all(part.get('allow_failed_imports') for part in parts),
    }


def _change_hooks(
    cfg: Config, name: str, hooks: list[dict[str, Any]], replaces: Sequence[str]
) -> None:
    present = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if not isinstance(hook, dict) or short_name(hook['type']) not in replaces
    ]
    types = {short_name(hook['type']) for hook in present if isinstance(hook, dict)}
    for hook in hooks:
        if short_name(hook['type']) in types:
            print_log(
                f'--with {name}: the config has a {hook["type"]} already, which stays as it is',
                logger='current',
            )
        else:
            present.append(hook)
    if present or cfg.get('custom_hooks'):
        cfg.custom_hooks = present


def _wrapper_changes(cfg: Config, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What to merge into the host's ``optim_wrapper``, or into each of its members."""
    wrappers = _wrappers(cfg.get('optim_wrapper') or {})
    if not wrappers:
        raise ValueError(
            f'--with {name} needs a config with an optimizer '
            '(optim_wrapper=dict(optimizer=...), or such a dict for each network)'
        )
    typed = {
        key: {**copy.deepcopy(changes), 'type': _wrapper_type(name, changes['type'], wrapper)}
        for key, wrapper in wrappers.items()
    }
    return typed.get('', typed)


def _wrappers(host: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Members of an ``optim_wrapper``; itself, as '', where it is the one of all networks."""
    if 'optimizer' in host:
        return {'': host}
    return {
        key: member
        for key, member in host.items()
        if isinstance(member, dict) and 'optimizer' in member
    }


def _wrapper_type(name: str, kind: str, host: dict[str, Any]) -> str:
    short = short_name(host.get('type', 'OptimWrapper'))
    if short not in _PLAIN:
        raise ValueError(
            f'--with {name} replaces OptimWrapper or AmpOptimWrapper, but the config has '
            f'optim_wrapper.type={short!r}: leave out one of them'
        )
    # One that names mixed precision itself stays so on any host.
    stem = kind.removesuffix('OptimWrapper').removesuffix(_PLAIN[short])
    return f'{stem}{_PLAIN[short]}OptimWrapper'


def _stem(kind: str) -> str:
    """What an optimizer wrapper and its counterpart for mixed precision have in common."""
    return kind.removesuffix('OptimWrapper').removesuffix('Amp')


def _slots(model: Any, path: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """What goes into a fragment's model -> where."""
    found: dict[str, tuple[str, ...]] = {}
    for key, value in (model or {}).items():
        if isinstance(value, dict):
            if HOST in value:
                found[value[HOST]] = (*path, key)
            else:
                found.update(_slots(value, (*path, key)))
    return found


def _wrap_model(
    cfg: Config,
    name: str,
    model: dict[str, Any],
    slots: dict[str, tuple[str, ...]],
    bases: list[str],
) -> None:
    host = cfg.get('model')
    kind = next(kind for kind in slots if kind in _KINDS)
    # The Runner would give it to the outermost model.
    preprocessor = cfg.pop('data_preprocessor', None)
    if preprocessor is not None:
        host.setdefault('data_preprocessor', preprocessor)
    preprocessor, where = copy.deepcopy(host.get('data_preprocessor')), 'model.data_preprocessor'
    if any(base.endswith('.SemiBaseDetector') for base in bases):
        # Teacher and student are the wrapper's business.
        where += '.data_preprocessor'
        host, preprocessor = host['detector'], (preprocessor or {}).get('data_preprocessor')
    if 'data_preprocessor' in slots and preprocessor is None:
        raise ValueError(
            f'--with {name} needs the preprocessor of the {kind}, but the config has no {where}: '
            'add it'
        )
    for what, slot in slots.items():
        place = model
        for key in slot[:-1]:
            place = place[key]
        place[slot[-1]] = host if what == kind else preprocessor
    # Config.merge would mix the keys of both models; _delete_ would ask it not to.
    model.pop('_delete_', None)
    cfg.model = model


def _check_kind(cfg: Config, name: str, kind: str) -> list[str]:
    """Refuse a host of another kind; return the paths of its class and of its bases."""
    host = cfg.get('model')
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
    if bases[0].startswith('mmext.plugins.'):
        raise ValueError(
            f'--with {name} serves {article}, but the config has model.type={host["type"]!r}, '
            f"which is another plugin's: leave {name} out"
        )
    return bases


def _check_data(cfg: Config, name: str, transform: str, fix: str) -> None:
    if not _has_type(cfg.get('train_dataloader'), transform):
        raise ValueError(
            f'--with {name} needs {transform} in train_dataloader, which the config has not: {fix}'
        )


def _has_type(node: Any, kind: str) -> bool:
    if isinstance(node, dict):
        found = node.get('type')
        if found is not None and short_name(found) == kind:
            return True
        return any(_has_type(value, kind) for value in node.values())
    return isinstance(node, list | tuple) and any(_has_type(value, kind) for value in node)


def _merge_preprocessor(cfg: Config, name: str, changes: dict[str, Any]) -> None:
    """Into ``model.data_preprocessor`` where there is one, else into the config's."""
    taken = [place for key in changes for place in _places(cfg, f'data_preprocessor.{key}')]
    if taken:
        raise ValueError(
            f'--with {name} sets data_preprocessor.{", ".join(changes)}, but the config has '
            f'{", ".join(taken)}: leave out one of them'
        )
    merged = {'data_preprocessor': changes}
    cfg.merge_from_dict({'model': merged} if _keeps_preprocessor(cfg) else merged)


def _keeps_preprocessor(cfg: Config) -> bool:
    return isinstance((cfg.get('model') or {}).get('data_preprocessor'), dict)


def _places(cfg: Config, key: str) -> list[str]:
    """Where the host sets a dotted key; one of its preprocessor wherever the host keeps it."""
    places = [key]
    if key.partition('.')[0] == 'data_preprocessor' and _keeps_preprocessor(cfg):
        places = [f'model.{key}']
    if key == 'data_preprocessor.batch_augments':
        # MMPretrain takes them from here too.
        places.append('model.train_cfg.augments')
    return [place for place in places if _value(cfg, place) is not None]


def _value(cfg: Config, key: str) -> Any:
    node: Any = cfg
    for part in key.split('.'):
        node = node.get(part) if isinstance(node, dict | Config) else None
    return node
