"""What is built, and what `pip install` of it leaves behind in virtual environments."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from mmext.version import __version__

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
# config by its name anywhere in the package, which must be there once. 2 iterations are trained.
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
assert config == home / '.mim/configs/terngrad/terngrad_lenet_digits.py'
subprocess.run(
    [sys.executable, tool, 'mmext::terngrad/terngrad_lenet_digits.py', '--launcher', 'none',
     '--with', 'smoothout', '--work-dir', sys.argv[1], '--cfg-options',
     'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4',
     'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
     'train_dataloader.dataset.indices=8', 'val_cfg=None', 'val_dataloader=None',
     'val_evaluator=None', 'default_hooks.checkpoint.interval=1'],
    check=True)
zoo = subprocess.run([sys.executable, tool.with_name('zoo.py'), 'list'], check=True,
                     capture_output=True, text=True).stdout
assert 'lenet_mnist' in zoo and 'configs of the metafiles are untrained here' in zoo, zoo
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


@pytest.fixture(scope='module')
def built(source, tmp_path_factory):
    """Source distribution, and the wheel that is built from it."""
    pytest.importorskip('build')
    folder = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (sdist,), (wheel,) = folder.glob('*.tar.gz'), folder.glob('*.whl')
    return sdist, wheel


def test_an_index_would_take_both_files(built):
    pytest.importorskip('twine')
    done = subprocess.run(
        [sys.executable, '-m', 'twine', 'check', '--strict', *built], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count('PASSED') == 2, done.stdout


def test_the_wheel_has_every_file_of_the_package(source, built):
    """It is built from the source distribution, so that one has them, too."""
    wanted = {
        f'{place}{path.relative_to(source)}'
        for folder, place in [('mmext', ''), ('configs', 'mmext/.mim/'), ('tools', 'mmext/.mim/')]
        for path in (source / folder).rglob('*')
        if path.is_file()
    }
    with zipfile.ZipFile(built[1]) as archive:
        assert not wanted - set(archive.namelist())


def test_what_the_wheel_says_of_itself_and_brings(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith('.dist-info/METADATA'))
        told = email.message_from_bytes(archive.read(metadata))
    assert told['Version'] == __version__ and told['Author'] == 'mmext contributors'
    assert told['License-Expression'] == 'Apache-2.0' and told['Requires-Python']
    for name in ('mmext/py.typed', 'mmext.pth', '_mmext_startup.py', 'mmext/.mim/model-index.yml'):
        assert name in names
    assert {name.partition('/')[0] for name in names if '/' in name} == {
        'mmext', metadata.partition('/')[0]
    }  # fmt: skip
    # A bound would make pip replace what is installed; only extras may have one.
    core = [one for one in told.get_all('Requires-Dist') if 'extra ==' not in one]
    assert core and all(re.fullmatch(r'[a-z]+', name) for name in core), core
    assert 'torchvision' not in core


# What an environment of last year may have, as far as pip looks: names and versions.
OLD = {'torch': '2.1.2', 'torchvision': '0.16.2', 'numpy': '1.26.4', 'mmengine': '0.10.4',
       'mmcv': '2.1.0', 'mmdet': '3.3.0', 'rich': '13.4.2', 'matplotlib': '3.8.0',
       'pyyaml': '6.0.1'}  # fmt: skip


def test_in_an_environment_of_others_pip_adds_mmext_and_touches_nothing(built, tmp_path):
    venv.create(tmp_path / 'env', with_pip=False)
    (library,) = (tmp_path / 'env/lib').glob('python*/site-packages')
    for name, version in OLD.items():
        about = library / f'{name}-{version}.dist-info'
        about.mkdir()
        (about / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        )
        (about / 'RECORD').touch()
    kept = {key: value for key, value in os.environ.items() if not key.startswith('PIP_')}
    report = tmp_path / 'report.json'
    done = subprocess.run(
        [sys.executable, '-m', 'pip', '--python', tmp_path / 'env/bin/python', 'install', '-q',
         '--dry-run', '--no-index', '--report', report, built[1]],
        env={**kept, 'PIP_CONFIG_FILE': os.devnull}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    changes = json.loads(report.read_text())['install']
    assert [item['metadata']['name'] for item in changes] == ['mmext']


@pytest.mark.parametrize('editable', [False, True], ids=['wheel', 'editable'])
def test_configs_tools_and_fallback_come_with_the_package(source, built, tmp_path, editable):
    python = python_of(tmp_path / 'env')
    arguments = ['-e', str(source)] if editable else [str(built[1])]
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
