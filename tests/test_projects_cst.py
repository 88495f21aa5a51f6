"""The scripts behind `make demo` and `make reproduce PLUGIN=cst`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SHORT = ['train_cfg.max_iters=4', 'train_cfg.val_interval=4', 'default_hooks.logger.interval=1',
         'default_hooks.checkpoint.interval=1']  # fmt: skip


def test_cost_study_runs(root, tmp_path):
    command = [sys.executable, root / 'projects/cst/cost.py', '--quick', '--scenes', tmp_path / 's']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'time x' in done.stdout


@pytest.mark.slow
def test_demo_resumes_after_an_interrupt(root, tmp_path):
    """The demo with 4 iterations, interrupted after the first checkpoint and started again."""
    command = [sys.executable, root / 'projects/cst/demo.py', '--work-dir', tmp_path,
               '--cfg-options', *SHORT]  # fmt: skip
    first = subprocess.Popen(command, cwd=root, start_new_session=True)
    while not (tmp_path / 'cst/iter_1.pth').exists() and first.poll() is None:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(60) != 0
    assert not (tmp_path / 'summary.json').exists()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Continue at iteration' in done.stdout
    assert {'detections.png', 'curves.png', 'summary.json'} <= {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / 'summary.json').read_text())['rows'].keys() == {
        'supervised',
        'cst',
    }
