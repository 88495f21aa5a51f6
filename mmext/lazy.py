"""Packages that import what they export when it is asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """Public names of a plugin's package, each imported when it is asked for.

    So the functional core of a plugin is imported without the classes around it, and works where
    MMEngine is not installed.

    Args:
        package: Name of the package.
        names: Public name -> module of the package that has it, or the full name of another.

    Returns:
        ``__getattr__`` and ``__all__`` of the package.

    Example:
        >>> __getattr__, __all__ = exports('mmext.plugins.smoothout', {'SmoothOutHook': 'hook'})
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        module = names[name]
        return getattr(import_module(module if '.' in module else f'{package}.{module}'), name)

    return find, sorted(names)
