"""Ten papers as plugins of MMEngine, MMDetection and MMPretrain; use them by ``type='mmext.…'``."""

from .compat import config_text as _config_text
from .compat import mim as _mim
from .compat import mmcv_ops as _mmcv_ops
from .version import __version__

__all__ = ['__version__']

_mmcv_ops.install()
_mim.install()
_config_text.install()
