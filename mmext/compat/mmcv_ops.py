"""Give mmcv its missing ``mmcv._ext``: operators on torchvision's kernels, nothing compiled.

mmcv-lite, and mmcv built without operators, have no ``mmcv._ext``: ``import mmdet.models`` fails.
:func:`install` appends a finder for that one name to ``sys.meta_path``. Being asked last, it never
hides a compiled ``_ext``: the path finder answers before it. The operators themselves are in
``_mmcv_kernels.py``, which runs as ``mmcv._ext`` when mmcv first asks for it; until then neither
torch nor torchvision nor mmcv is imported, so a start-up file may call :func:`install`.

``MMEXT_MMCV_OPS=off`` in the environment switches the replacement off.

Example:
    >>> from mmext.compat import mmcv_ops
    >>> mmcv_ops.install()
    True
    >>> import mmdet.models
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from types import ModuleType

#: Environment variable; the value ``off`` keeps :func:`install` from doing anything.
SWITCH = 'MMEXT_MMCV_OPS'

_NAME = 'mmcv._ext'
_KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '_mmcv_kernels.py')


class MmcvExtFinder:
    """Finder that knows one module, ``mmcv._ext``, and loads the torchvision operators as it."""

    #: A start-up file may run a second copy of this module; both copies know the finder by this.
    provides = _NAME

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the operators if ``fullname`` is ``mmcv._ext``, else None."""
        return spec_from_file_location(_NAME, _KERNELS) if fullname == _NAME else None


def install() -> bool:
    """Provide ``mmcv._ext`` if mmcv is installed without compiled operators.

    Safe to call any number of times. Does nothing if mmcv is absent, if a compiled ``_ext`` lies in
    it, or if the environment says ``MMEXT_MMCV_OPS=off``. Costs a few file look-ups.

    Returns:
        bool: Whether the replacement is in place after the call.
    """
    locations = _mmcv_locations()
    wanted = os.environ.get(SWITCH, '').strip().lower() != 'off'
    if wanted and locations and not _is_compiled(locations) and not _installed():
        sys.meta_path.append(MmcvExtFinder())
    return bool(_installed())


def uninstall() -> None:
    """Take the replacement out of the import system; operators already imported stay usable."""
    for finder in _installed():
        sys.meta_path.remove(finder)


def flavour() -> str:
    """Tell where mmcv's operators come from, without importing mmcv.

    Returns:
        str: ``'compiled'``: mmcv brings its own. ``'torchvision'``: :func:`install` replaces them.
        ``'off'``: mmcv has none and they are not replaced (``MMEXT_MMCV_OPS=off``, or
        :func:`install` was not called). ``'absent'``: mmcv is not installed.
    """
    locations = _mmcv_locations()
    if not locations:
        return 'absent'
    if _is_compiled(locations):
        return 'compiled'
    return 'torchvision' if _installed() else 'off'


def _installed() -> list:
    return [finder for finder in sys.meta_path if getattr(finder, 'provides', None) == _NAME]


def _mmcv_locations() -> list[str]:
    try:
        spec = find_spec('mmcv')
    # An object that is no real package was put into sys.modules, or a finder refuses the name.
    except (ValueError, ModuleNotFoundError):
        return []
    return list(spec.submodule_search_locations or []) if spec else []


def _is_compiled(locations: list[str]) -> bool:
    return PathFinder.find_spec(_NAME, locations) is not None
