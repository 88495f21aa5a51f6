"""Settings of all plugin tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config


@pytest.fixture(scope='module', autouse=True)
def unformatted_configs():
    """MMEngine formats a config for each run and checkpoint, for seconds; nothing here reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg._cfg_dict)))
        yield


@pytest.fixture(scope='session')
def two_ranks(root):
    """Function that runs a worker script with arguments in two gloo processes."""

    def run(worker: Path, *arguments: object) -> None:
        command = [
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
            str(worker), *map(str, arguments),
        ]  # fmt: skip
        environment = {**os.environ, 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1'}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]

    return run
