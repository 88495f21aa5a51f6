"""Find misspelt arguments of hooks and optim wrappers before anything is built."""

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import HOOKS, OPTIM_WRAPPERS, Registry

# What MMEngine takes out before it builds the wrapper or the hook.
_OF_BUILDER = {'type', '_scope_', 'constructor', 'paramwise_cfg', 'optimizer', 'priority'}


def check_arguments(cfg: Mapping[str, Any]) -> None:
    """Check the arguments of ``optim_wrapper``, ``default_hooks`` and ``custom_hooks``.

    Args:
        cfg: Config of a Runner.

    Raises:
        ValueError: A class does not take an argument; names both, and similar ones.
    """
    for key, registry, settings, default in _built(cfg):
        with registry.switch_scope_and_registry(cfg.get('default_scope')) as scoped:
            kind = settings.get('type', default)
            cls = scoped.get(kind) if isinstance(kind, str) else kind
        taken = arguments(cls) if inspect.isclass(cls) else None
        if taken is None:
            continue
        for name in settings:
            if name not in taken | _OF_BUILDER:
                close = difflib.get_close_matches(name, sorted(taken), n=3)
                hint = (
                    f'did you mean {" or ".join(close)}'
                    if close
                    else 'it takes ' + ', '.join(sorted(taken))
                )
                raise ValueError(f'{key}: {cls.__name__} has no argument {name!r}; {hint}')


def arguments(cls: type) -> set[str] | None:
    """Names that the constructor of a class takes; None: any.

    Where it hands ``**kwargs`` on, those of its parents belong to it.
    """
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(vars(base)['__init__']).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {'self'}
    # Without a constructor it takes nothing; else somebody takes what is handed on.
    return None if names else set()


def _built(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Registry, Mapping[str, Any], Any]]:
    wrapper = cfg.get('optim_wrapper')
    if isinstance(wrapper, Mapping):
        if 'optimizer' in wrapper:
            yield 'optim_wrapper', OPTIM_WRAPPERS, wrapper, 'OptimWrapper'
        else:
            for name, member in wrapper.items():
                if isinstance(member, Mapping) and 'optimizer' in member:
                    yield f'optim_wrapper.{name}', OPTIM_WRAPPERS, member, 'OptimWrapper'
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if isinstance(hook, Mapping) and 'type' in hook:
            yield f'default_hooks.{name}', HOOKS, hook, None
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, Mapping) and 'type' in hook:
            yield f'custom_hooks.{number}', HOOKS, hook, None
