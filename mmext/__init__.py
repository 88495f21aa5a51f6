"""Ten papers as plugins of MMEngine, MMDetection and MMPretrain; use them by ``type='mmext.…'``."""

from importlib import import_module as _import_module

from .compat import config_text as _config_text
from .compat import mim as _mim
from .compat import mmcv_ops as _mmcv_ops
from .version import __version__

__all__ = ['__version__']

_mmcv_ops.install()
_mim.install()
_config_text.install()


def __getattr__(name: str):
    """Registered classes, imported when asked for: ``mmext.SmoothOutHook``.

    Registries of the hosts that have no parent in MMEngine (batch augments) find ours by this.
    """
    # Not `from . import registry`, which would ask for the attribute again.
    return _import_module('mmext.registry').registered(name)
