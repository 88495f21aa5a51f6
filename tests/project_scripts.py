"""Scripts of ``projects/`` in the process of the tests: several have a ``study`` or ``runs``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

PROJECTS = Path(__file__).resolve().parents[1] / 'projects'
# Imported once: they register classes.
_imported: dict[Path, dict[str, ModuleType]] = {}


@contextmanager
def importable(project: Path) -> Iterator[None]:
    """Import modules by the names of a project's scripts from there, until the end.

    What has one of these names already, from another project or from the tests, is back afterwards.
    """
    folders = (PROJECTS, project)
    names = {path.stem for folder in folders for path in folder.glob('*.py')}
    kept = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.modules.update(_imported.get(project, {}))
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(str(folder))
        try:
            yield
        finally:
            _imported[project] = {n: sys.modules.pop(n) for n in names & set(sys.modules)}
            sys.modules.update(kept)
