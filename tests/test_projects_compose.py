"""Four plugins in one run on two ranks, killed and resumed."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_killed_and_resumed_run_of_four_plugins_is_identical(root):
    command = [sys.executable, str(root / 'projects/dropin/compose_run.py'), '--quick']
    done = subprocess.run(
        command, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert 'weights and buffers, optimizer, schedules: identical' in done.stdout


def test_iterations_that_cannot_be_halved_twice_are_refused(root):
    command = [sys.executable, str(root / 'projects/dropin/compose_run.py'), '--iterations', '6']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and 'must be a multiple of 4' in done.stderr
