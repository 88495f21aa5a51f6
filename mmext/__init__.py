"""Ten papers as plugins of MMEngine, MMDetection and MMPretrain; use them by ``type='mmext.…'``.

:mod:`mmext.functional` has each paper as functions for a loop of plain PyTorch. Importing mmext
imports neither torch nor MMEngine, and works where MMEngine is not installed.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec

from .compat import mim as _mim
from .compat import mmcv_ops as _mmcv_ops
from .version import __version__

__all__ = ['__version__']

_mmcv_ops.install()
_mim.install()


def __getattr__(name: str):
    """Modules and registered classes, imported when asked for: ``mmext.SmoothOutHook``.

    Registries of the hosts that have no parent in MMEngine (batch augments) find ours by this.
    """
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    # Not `from . import registry`, which would ask for the attribute again.
    if name.islower() and _find_spec(f'{__name__}.{name}'):
        return _import_module(f'{__name__}.{name}')
    try:
        registry = _import_module('mmext.registry')
    except ModuleNotFoundError as error:
        if error.name != 'mmengine':
            raise
        # Classes are told apart by their capitals: hasattr() must work for anything else.
        if name.islower():
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}') from error
        from .compat.environment import install_command

        raise ImportError(
            f'mmext.{name} needs MMEngine, which is not installed: {install_command("upstream")}; '
            'mmext.functional works without',
            name=error.name,
        ) from error
    return registry.registered(name)
