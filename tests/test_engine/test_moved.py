"""Old import paths of modules that have moved."""

import importlib
import sys

import pytest

from mmext import engine


@pytest.mark.parametrize('old, new', engine._MOVED.items())
def test_a_moved_module_imports_under_its_old_name_with_a_warning(old, new, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(FutureWarning, match=f'{old} is {new} now'):
        found = importlib.import_module(old)
    assert found is importlib.import_module(new) and found.__name__ == new


@pytest.mark.parametrize('name', ['mmext.engine.nothing', 'overlay'])
def test_other_modules_are_not_found(name):
    with pytest.raises(ModuleNotFoundError, match=name):
        importlib.import_module(name)
