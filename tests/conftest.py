"""Settings every test shares."""

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


@pytest.fixture(scope='session')
def scenes(tmp_path_factory) -> Path:
    """A small set of digit scenes: 24 for training (6 labelled), 6 for validation, 6 for test."""
    sys.path.insert(0, str(ROOT))
    from mmext.datasets.digit_scenes import SceneSettings, generate

    out = tmp_path_factory.mktemp('data') / 'digit_scenes'
    generate(out, SceneSettings(train=24, val=6, test=6, percent=(25,), folds=1))
    return out
