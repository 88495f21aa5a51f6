"""Settings every test shares."""

import importlib
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from project_scripts import PROJECTS, importable

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture
def import_script():
    """Function that imports a script of a project, by the names of both."""
    with ExitStack() as stack:

        def load(project: str, name: str):
            if project not in entered:
                stack.enter_context(importable(PROJECTS / project))
                entered.add(project)
            return importlib.import_module(name)

        entered: set[str] = set()
        yield load


@pytest.fixture(scope='session')
def scenes(tmp_path_factory) -> Path:
    """A small set of digit scenes: 24 for training (6 labelled), 6 for validation, 6 for test."""
    sys.path.insert(0, str(ROOT))
    from mmext.datasets.digit_scenes import SceneSettings, generate

    out = tmp_path_factory.mktemp('data') / 'digit_scenes'
    generate(out, SceneSettings(train=24, val=6, test=6, percent=(25,), folds=1))
    return out
