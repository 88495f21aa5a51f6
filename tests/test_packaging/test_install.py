"""What `pip install` leaves behind, wheel and editable, in clean virtual environments."""

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

LOOKUPS = """
import sys
assert 'mmcv' not in sys.modules and 'mmengine' not in sys.modules, 'start-up imports the stack'
import mmcv.ops                      # before anything of mmext: the start-up file must do it
from mmengine.config import Config
from mmengine.utils import get_installed_path
from pathlib import Path
import mmext
home = Path(get_installed_path('mmext'))
mim = home / '.mim'
assert (mim / 'configs/cst/cst_fcos_r18_digits.py').is_file()
assert (mim / 'tools/train.py').is_file() and (mim / 'model-index.yml').is_file()
folder = Path(sys.argv[1])
(folder / 'mine.py').write_text("_base_ = 'mmext::cst/supervised_fcos_r18_digits.py'")
cfg = Config.fromfile(folder / 'mine.py')
assert cfg.model.type == 'FCOS'
from importlib.metadata import metadata, version
assert version('mmext') == mmext.__version__ and metadata('mmext')['Name'] == 'mmext'
print(home)
"""
# What `mim train mmext CONFIG` does: find the package by its metadata, the tool in .mim, and the
# config by its name anywhere in the package, which must be there once.
MIM = """
import os, subprocess, sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
assert distribution('mmext').metadata['Name'] == 'mmext'
home = Path(find_spec('mmext').submodule_search_locations[0])
files = [Path(folder) / name for folder, _, names in os.walk(home, followlinks=True)
         for name in names]
(tool,) = [file for file in files if file.parts[-3:] == ('.mim', 'tools', 'train.py')]
known = subprocess.run([sys.executable, tool, '--help'], capture_output=True, text=True).stdout
# With --gpus in the help, mim would pass it.
assert '--launcher' in known and '--gpus' not in known, known
names = [file.name for file in files]
for config in (home / '.mim/configs').rglob('*.py'):
    if not {'_base_', 'overlays'} & set(config.parts):
        assert names.count(config.name) == 1, config
config = next(file for file in files if file.name == 'terngrad_lenet_digits.py')
subprocess.run(
    [sys.executable, tool, config, '--launcher', 'none', '--with', 'smoothout', '--work-dir',
     sys.argv[1], '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4',
     'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
     'train_dataloader.dataset.indices=8', 'val_cfg=None', 'val_dataloader=None',
     'val_evaluator=None', 'default_hooks.checkpoint.interval=1'],
    check=True)
"""
# Ignored by git or none of a source distribution's business.
LEAVE = shutil.ignore_patterns(
    '.git', 'data', 'work_dirs', 'build', '*.egg-info', '.mim', '__pycache__'
)


def python_of(folder: Path) -> Path:
    """A virtual environment that sees the dependencies of this one and not its mmext."""
    venv.create(folder, with_pip=False)
    own = Path(sysconfig.get_path('purelib', vars=dict(base=str(folder), platbase=str(folder))))
    here = Path(sysconfig.get_path('purelib'))
    lines = [f'import site; site.addsitedir({str(here)!r})\n']
    shared = here / '_mmext_deps.pth'
    if shared.exists():
        # The checkout's own environment is a thin layer: take the one below it.
        lines = [shared.read_text()]
    (own / 'deps.pth').write_text(''.join(lines))
    return folder / 'bin' / 'python'


@pytest.fixture(scope='module')
def source(root, tmp_path_factory):
    target = tmp_path_factory.mktemp('source') / 'mmext'
    shutil.copytree(root, target, ignore=LEAVE)
    return target


@pytest.mark.parametrize('editable', [False, True], ids=['wheel', 'editable'])
def test_configs_tools_and_fallback_come_with_the_package(source, tmp_path, editable):
    python = python_of(tmp_path / 'env')
    arguments = ['-e', str(source)] if editable else [str(source)]
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    subprocess.run(
        [python, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', *arguments],
        check=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    done = subprocess.run(
        [python, '-c', LOOKUPS, str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    home = Path(done.stdout.strip().splitlines()[-1])
    assert home.is_relative_to(source if editable else tmp_path / 'env')
    assert (home / '.mim/configs').is_symlink() == editable
    if not editable:
        done = subprocess.run(
            [python, '-c', MIM, tmp_path / 'run'], cwd=tmp_path, capture_output=True, text=True,
            env={**environment, 'OMP_NUM_THREADS': '1'},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert (tmp_path / 'run/epoch_1.pth').exists()
        assert 'smoothout/strength' in done.stdout + done.stderr
    off = subprocess.run(
        [python, '-c', 'import mmcv.ops'], env={**environment, 'MMEXT_MMCV_OPS': 'off'},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert off.returncode and 'mmcv._ext' in off.stderr
    subprocess.run(
        [python, '-m', 'pip', 'uninstall', '-q', '-y', 'mmext'], check=True, env=environment,
        cwd=tmp_path,
    )  # fmt: skip
    left = list((tmp_path / 'env').rglob('*mmext*'))
    assert not left, left
