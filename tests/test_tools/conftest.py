import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOY = ROOT / 'tests' / 'toy'


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Stand in an empty folder with the toy project importable; returns its config."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return str(TOY / 'toy_config.py')


@pytest.fixture
def toy_environment():
    """Environment of a child process: mmext is not on its path, only the toy project is."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith('SLURM')}
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'PORT', 'NNODES'):
        kept.pop(name, None)
    return {**kept, 'PYTHONPATH': str(TOY), 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'}
