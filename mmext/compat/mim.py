"""``_base_ = 'mmext::…'``: let MMEngine find mmext's configs, and find those of any package.

:func:`install` imports nothing of MMEngine: what it changes there is changed now if MMEngine's
Config has been imported, else at the moment when it is.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MODULE = 'mmengine.config.config'


class ConfigFinder:
    """Finder that knows one module, that of MMEngine's Config, and patches it once it has run."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec with a loader that patches, None for every other name."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _MODULE else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            patch(module.Config)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Add mmext to the packages whose configs MMEngine resolves. Idempotent."""
    module = sys.modules.get(_MODULE)
    if module is not None:
        patch(module.Config)
    elif ConfigFinder not in sys.meta_path:
        sys.meta_path.insert(0, ConfigFinder)


def patch(config: Any) -> None:
    """Let MMEngine's class Config resolve ``mmext::``. Idempotent.

    MMEngine puts the types of an external base under the scope of its package. mmext's configs name
    the host's types as the host does and prefix ours, so theirs stay under the default scope.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    from mmext import shipped

    MODULE2PACKAGE.setdefault('mmext', 'mmext')
    find = config._get_cfg_path
    if getattr(find, 'knows_mmext', False):
        return

    def find_ours(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, external, relative = cfg_path.partition('::')
        if package != 'mmext' or not external:
            return find(cfg_path, filename)
        return str(shipped.own_configs() / relative), None

    find_ours.knows_mmext = True  # type: ignore[attr-defined]
    config._get_cfg_path = staticmethod(find_ours)
