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
