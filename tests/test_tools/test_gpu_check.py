"""tools/gpu_check.sh without a GPU: arguments, refusals, plan, and that a failure stops nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools/gpu_check.sh'


@pytest.fixture
def check(tmp_path):
    """Run the script in an empty folder with no GPU in sight."""

    def run(*argv, **environment):
        return subprocess.run(
            ['bash', SCRIPT, *map(str, argv)], capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, 'CUDA_VISIBLE_DEVICES': '', **environment},
        )  # fmt: skip

    return run


@pytest.fixture
def pretended(tmp_path):
    """A copy of the script in a bare checkout, and a Python that pretends to have a GPU."""
    root = tmp_path / 'checkout'
    (root / 'tools').mkdir(parents=True)
    (root / 'tests').mkdir()
    (root / 'tests/test_x.py').write_text('@pytest.mark.gpu\n')
    (root / 'tests/test_y.py').write_text('nothing\n')
    (root / 'tools/gpu_check.sh').write_bytes(SCRIPT.read_bytes())
    wheels = root / 'wheels'
    wheels.mkdir()
    (wheels / 'a-1-py3-none-any.whl').touch()
    python = tmp_path / 'python'
    python.write_text(
        '#!/bin/bash\n'
        'echo "$0 $*" >> "$CALLS"\n'
        'case "$*" in *codec_gpu*) echo codec breaks; exit 3;; *-c*torch*) echo torch 2;; esac\n'
    )
    python.chmod(0o755)
    env = tmp_path / 'env/bin'
    env.mkdir(parents=True)
    (env / 'python').write_bytes(python.read_bytes())
    (env / 'python').chmod(0o755)

    def run(*argv):
        calls = tmp_path / 'calls'
        done = subprocess.run(
            ['bash', root / 'tools/gpu_check.sh', '--python', python, '--env', tmp_path / 'env',
             *argv],
            capture_output=True, text=True, env={**os.environ, 'CALLS': str(calls)},
        )  # fmt: skip
        return done, calls.read_text() if calls.exists() else '', root

    return run


def test_every_step_runs_and_the_one_that_fails_is_named(pretended):
    done, calls, root = pretended()
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == 'gpu_check.sh: failed: codec'
    lines = calls.splitlines()
    assert any('-m venv' in line and '--system-site-packages' in line for line in lines)
    install = next(line for line in lines if ' install ' in line)
    assert '--no-index --no-deps' in install and install.endswith('a-1-py3-none-any.whl')
    tests = next(line for line in lines if 'pytest -m gpu' in line)
    assert 'test_x.py' in tests and 'test_y.py' not in tests
    # What comes after the failure.
    assert any('projects/cst/gpu.py' in line for line in lines)
    assert 'codec breaks' in (root / 'work_dirs/gpu_check/codec.log').read_text()


def test_chosen_steps_and_success(pretended):
    done, calls, _ = pretended('--steps', 'doctor,cst', '--quick')
    assert done.returncode == 0 and 'all steps passed' in done.stdout
    assert 'venv' not in calls and 'codec' not in calls
    assert next(c for c in calls.splitlines() if 'gpu.py' in c).endswith('--quick')


def test_without_a_gpu_it_refuses(check):
    done = check('--python', sys.executable)
    assert done.returncode == 2
    assert 'no GPU is visible to torch' in done.stderr and done.stdout == ''


def test_a_dry_run_prints_the_plan_and_does_nothing(check, tmp_path):
    env = tmp_path / 'env'
    done = check('--dry-run', '--env', env, '--wheels', tmp_path / 'w')
    assert done.returncode == 0, done.stderr
    plan = done.stdout
    assert [line for line in plan.splitlines() if line[:2] == '=='] == [
        '== environment', '== doctor', '== tests', '== codec', '== cst']  # fmt: skip
    for part in ('-m venv', '--no-index', 'pytest -m gpu', 'projects/terngrad/codec_gpu.py',
                 'projects/cst/gpu.py', 'test_kernels.py'):  # fmt: skip
        assert part in plan
    assert not env.exists() and not list(tmp_path.iterdir())


def test_the_download_takes_wheels_alone_for_another_python(check, tmp_path):
    done = check('--dry-run', '--download', '--wheels', tmp_path / 'w')
    assert done.returncode == 0
    for part in ('pip download', '--no-deps', '--only-binary=:all:', '--python-version 3.12',
                 'mmengine mmcv-lite mmdet mmpretrain', 'constraints.txt'):  # fmt: skip
        assert part in done.stdout
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
    ('argv', 'named'),
    [
        (['--step', 'tests'], 'unknown argument --step'),
        (['--steps', 'tests,bench'], "no step 'bench'"),
        (['--wheels'], '--wheels needs a value'),
        (['--python', '/no/such/python'], 'there is no /no/such/python'),
    ],
)
def test_mistakes_exit_with_2(check, argv, named):
    done = check(*argv)
    assert done.returncode == 2 and named in done.stderr


def test_missing_wheels_are_said(pretended, tmp_path):
    for wheel in (tmp_path / 'checkout/wheels').iterdir():
        wheel.unlink()
    done, _, _ = pretended()
    assert done.returncode == 2 and 'no wheels in' in done.stderr and '--download' in done.stderr


def test_the_help_is_the_header(check):
    done = check('--help')
    assert done.returncode == 0 and 'has not been run on a GPU yet' in done.stdout
    assert 'set -uo' not in done.stdout


def test_the_gpu_codec_in_tritons_interpreter(tmp_path):
    pytest.importorskip('triton')
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, ROOT / 'projects/terngrad/codec_gpu.py']
    done = subprocess.run([*command, '--quick', '--out', tmp_path], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'differ: []' in done.stdout and (tmp_path / 'codec.json').exists()
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1 and 'no GPU is visible' in refused.stderr
