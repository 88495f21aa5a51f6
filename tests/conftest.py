"""Settings every test shares."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture
def import_script(root, monkeypatch):
    """Function that imports a script of a project; several have a ``study`` or ``runs``."""

    def forget() -> None:
        for name, module in list(sys.modules.items()):
            file = getattr(module, '__file__', None)
            if file and Path(file).is_relative_to(root / 'projects'):
                del sys.modules[name]

    def load(project: str, name: str):
        for folder in ('projects', f'projects/{project}'):
            monkeypatch.syspath_prepend(str(root / folder))
        return importlib.import_module(name)

    forget()
    yield load
    forget()


@pytest.fixture(scope='session')
def scenes(tmp_path_factory) -> Path:
    """A small set of digit scenes: 24 for training (6 labelled), 6 for validation, 6 for test."""
    sys.path.insert(0, str(ROOT))
    from mmext.datasets.digit_scenes import SceneSettings, generate

    out = tmp_path_factory.mktemp('data') / 'digit_scenes'
    generate(out, SceneSettings(train=24, val=6, test=6, percent=(25,), folds=1))
    return out
