import importlib.metadata
import re
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from mmext.compat import environment


@pytest.fixture
def simulate(monkeypatch):
    """Pretend that exactly these distributions and importable modules are there."""

    def pretend(versions=None, modules=None):
        def version(name):
            if name not in (versions or {}):
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        def try_import(name):
            found = (modules or {}).get(name, ModuleNotFoundError(f'No module named {name!r}'))
            if isinstance(found, Exception):
                return None, environment._line(found)
            return found, ''

        monkeypatch.setattr(importlib.metadata, 'version', version)
        monkeypatch.setattr(environment, '_try_import', try_import)

    return pretend


def of(findings, check):
    return [item for item in findings if item.check == check]


def only(findings, check):
    (item,) = of(findings, check)
    return item


def fake_torch(**rest):
    values = {'__version__': '2.9.0', 'version': SimpleNamespace(cuda='12.8'), **rest}
    return SimpleNamespace(tensor=torch.tensor, ones=torch.ones, **values)


def test_the_environment_of_the_tests_is_sound():
    findings = environment.diagnose()
    # mmext:: configs are found where mmext is installed; the tests also run on a bare checkout.
    errors = [item for item in findings if item.status == 'error']
    assert [item for item in errors if item.check != 'mmext:: configs'] == []
    torch_item, mmengine = only(findings, 'torch'), only(findings, 'mmengine')
    assert torch_item.detail.startswith(torch.__version__)
    assert only(findings, 'torchvision').status == 'ok'
    assert importlib.metadata.version(mmengine.detail.split()[0]) in mmengine.detail


def test_nothing_installed_is_a_report_not_a_crash(simulate):
    simulate()
    findings = environment.diagnose()
    for check in ('torch', 'mmengine', 'numpy', 'mmcv ops'):
        assert only(findings, check).status == 'error'
    for check in ('mmcv', 'mmdet', 'mmpretrain', 'opencv'):
        assert only(findings, check).status == 'info'
    assert all(bool(item.fix) == (item.status in ('warning', 'error')) for item in findings)
    assert not any('\n' in item.detail + item.fix for item in findings)


def test_a_check_that_dies_is_a_finding(monkeypatch):
    def check_dying():
        yield environment.Finding('before', 'ok', '')
        raise OSError('libsomething.so\nis broken')

    monkeypatch.setattr(environment, 'CHECKS', (check_dying, environment.check_python))
    findings = environment.diagnose()
    assert only(findings, 'dying').detail == 'the check failed: OSError: libsomething.so is broken'
    assert of(findings, 'python')


@pytest.mark.parametrize(
    ('version', 'status'), [((3, 9), 'error'), ((3, 12), 'ok'), ((3, 13), 'warning')]
)
def test_python_range(monkeypatch, version, status):
    info = namedtuple('info', 'major minor')(*version)
    monkeypatch.setattr(environment.sys, 'version_info', info)
    assert next(environment.check_python()).status == status


def test_both_flavours_at_once_overwrite_each_other(simulate):
    simulate({'mmengine': '0.11.0rc3', 'onedl-mmengine': '0.10.12'}, {'mmengine': object()})
    item = only(environment.check_openmmlab(), 'mmengine')
    assert item.status == 'error' and 'overwrite' in item.detail
    assert 'pip uninstall -y mmengine onedl-mmengine' in item.fix


def test_versions_against_the_tested_ones(simulate):
    modules = dict.fromkeys(('mmengine', 'mmcv', 'mmdet'), object())
    simulate({'mmengine': '0.11.0rc3', 'mmcv-lite': '2.0.0', 'onedl-mmdetection': '3.5.1'}, modules)
    findings = list(environment.check_openmmlab())
    assert only(findings, 'mmengine').status == only(findings, 'mmdet').status == 'ok'
    assert only(findings, 'mmcv').status == 'warning'
    assert 'mmcv-lite==2.1.0' in only(findings, 'mmcv').fix
    simulate({'onedl-mmcv': '2.3.0'}, modules)
    fix = only(environment.check_openmmlab(), 'mmcv').fix
    assert "MMCV_WITH_OPS=0 pip install 'onedl-mmcv==2.3.6'" in fix
    assert 'mixed' in only(findings, 'openmmlab').detail


def test_mmdet_refuses_newer_mmcv(simulate):
    modules = dict.fromkeys(('mmengine', 'mmcv', 'mmdet'), object())
    for mmcv, refused in [('2.2.0', True), ('2.1.0', False)]:
        simulate({'mmengine': '0.11.0rc3', 'mmcv': mmcv, 'mmdet': '3.3.0'}, modules)
        errors = [item for item in environment.check_openmmlab() if item.status == 'error']
        assert [item.check for item in errors] == (['mmdet'] if refused else [])


def test_a_package_that_does_not_import(simulate):
    simulate({'mmengine': '0.11.0rc3'}, {'mmengine': AttributeError('np.bool was removed')})
    item = only(environment.check_openmmlab(), 'mmengine')
    assert item.status == 'error' and 'np.bool was removed' in item.detail


def test_torchvision_of_another_torch(simulate):
    def nms(*_):
        raise RuntimeError('operator torchvision::nms does not exist')

    torchvision = SimpleNamespace(__version__='0.20', ops=SimpleNamespace(nms=nms))
    simulate(modules={'torch': fake_torch(), 'torchvision': torchvision})
    item = only(environment.check_torch(), 'torchvision')
    assert item.status == 'error' and 'nms does not exist' in item.detail
    assert "'torch==2.9.0' 'torchvision==0.24.*'" in item.fix


@pytest.mark.parametrize(
    ('architectures', 'status'),
    [(['sm_80', 'sm_90'], 'ok'), (['sm_80', 'sm_86'], 'error'), (['sm_80', 'compute_80'], 'ok')],
)
def test_gpu_against_the_architectures_of_the_build(simulate, architectures, status):
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_name=lambda index: 'H100',
        get_device_capability=lambda index: (9, 0),
        get_arch_list=lambda: architectures,
    )
    simulate(modules={'torch': fake_torch(cuda=cuda)})
    assert only(environment.check_gpus(), 'gpu').status == status


@pytest.mark.parametrize(('built', 'fix'), [('13.0', 'update the driver'), (None, 'CUDA build')])
def test_driver_without_usable_gpu(simulate, monkeypatch, built, fix):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(environment.shutil, 'which', lambda name: '/usr/bin/nvidia-smi')
    cuda = SimpleNamespace(is_available=lambda: False)
    torch_build = fake_torch(cuda=cuda, version=SimpleNamespace(cuda=built))
    simulate(modules={'torch': torch_build})
    item = only(environment.check_gpus(), 'gpu')
    assert item.status == 'warning' and fix in item.fix
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    assert only(environment.check_gpus(), 'gpu').status == 'info'


@pytest.mark.parametrize(
    ('flavour', 'ext', 'status'),
    [
        ('compiled', object(), 'ok'),
        ('compiled', ImportError('undefined symbol: _ZN3c10'), 'error'),
        ('torchvision', object(), 'ok'),
        ('torchvision', ImportError('torchvision'), 'error'),
        ('off', ImportError('none'), 'error'),
    ],
)
def test_mmcv_operators(simulate, flavour, ext, status):
    ops = SimpleNamespace(flavour=lambda: flavour)
    simulate(modules={'mmext.compat.mmcv_ops': ops, 'mmcv._ext': ext})
    item = only(environment.check_mmcv_ops(), 'mmcv ops')
    assert item.status == status
    if flavour == 'compiled' and status == 'error':
        assert 'undefined symbol' in item.detail and 'mmcv-lite' in item.fix
        simulate({'onedl-mmcv': '2.3.6'}, {'mmext.compat.mmcv_ops': ops, 'mmcv._ext': ext})
        fix = only(environment.check_mmcv_ops(), 'mmcv ops').fix
        assert 'MMCV_WITH_OPS=0 pip install' in fix and 'mmcv-lite' not in fix


def test_old_mmengine_traps(simulate, monkeypatch):
    monkeypatch.setattr(environment, 'find_spec', lambda name: None)
    simulate({'mmengine': '0.10.7', 'setuptools': '84.2', 'torch': '2.14.1'})
    checks = [(item.check, item.status) for item in environment.check_known_traps()]
    assert checks == [('setuptools', 'error'), ('resume', 'error')]
    monkeypatch.setattr(environment, 'find_spec', lambda name: object())
    simulate({'mmengine': '0.10.7', 'setuptools': '80.9', 'torch': '2.5.1'})
    assert list(environment.check_known_traps()) == []
    simulate({'onedl-mmengine': '0.10.12', 'setuptools': '84.2', 'torch': '2.14.1'})
    assert list(environment.check_known_traps()) == []


def test_opencv_twice_and_without_libgl(simulate):
    both = {'opencv-python': '4.12', 'opencv-python-headless': '4.12'}
    cv2 = SimpleNamespace(__version__='4.12')
    simulate(both, {'cv2': cv2})
    item = only(environment.check_opencv(), 'opencv')
    assert item.status == 'ok' and 'opencv-python and opencv-python-headless' in item.detail
    simulate({**both, 'opencv-python': '4.11'}, {'cv2': cv2})
    item = only(environment.check_opencv(), 'opencv')
    assert item.status == 'warning'
    assert 'pip uninstall -y opencv-python opencv-python-headless' in item.fix
    lost = ImportError('libGL.so.1: cannot open shared object file')
    simulate({'opencv-python': '4.12'}, {'cv2': lost})
    item = only(environment.check_opencv(), 'opencv')
    assert item.status == 'error' and 'libGL.so.1' in item.detail
    assert 'opencv-python-headless' in item.fix and 'libgl1' in item.fix


def test_binaries_of_numpy_1(simulate):
    def from_numpy(array):
        raise RuntimeError('Numpy is not available')

    numpy = SimpleNamespace(__version__='2.4', zeros=lambda size: [0.0])
    old = ValueError('numpy.dtype size changed, may indicate binary incompatibility')
    modules = {'numpy': numpy, 'torch': fake_torch(from_numpy=from_numpy), 'pycocotools._mask': old}
    simulate({'pycocotools': '2.0.6'}, modules)
    item = only(environment.check_numpy(), 'numpy')
    assert item.status == 'error' and 'torch, pycocotools' in item.detail and 'numpy<2' in item.fix
    simulate({}, {'numpy': numpy, 'torch': fake_torch(from_numpy=lambda array: None)})
    assert only(environment.check_numpy(), 'numpy').status == 'ok'


def test_configs_that_are_not_found(monkeypatch, tmp_path):
    from mmext import shipped

    monkeypatch.setattr(shipped, 'own_configs', lambda: tmp_path)
    item = only(environment.check_configs(), 'mmext:: configs')
    assert item.status == 'error' and 'mmext::_base_/default_runtime.py' in item.detail


@pytest.mark.parametrize(('mib', 'warned'), [(64, True), (8192, False)])
def test_little_shared_memory_is_a_warning(monkeypatch, mib, warned):
    room = SimpleNamespace(f_frsize=4096, f_blocks=mib * 256)
    monkeypatch.setattr(environment.os, 'statvfs', lambda path: room, raising=False)
    found = list(environment.check_shared_memory())
    assert [item.status for item in found] == ['warning'] * warned
    assert all(f'{mib} MiB' in item.detail and '--shm-size' in item.fix for item in found)


def test_plugins_that_lack_a_package_name_the_command(monkeypatch, simulate):
    owners = ('mmext.plugins.mat', 'mmext.plugins.mat_two.part', 'mmext.engine.hooks')
    needs = {'mmext.plugins.mat': ('nowhere', 'json'),
             'mmext.plugins.mat.loop': ('nowhere', 'lost')}  # fmt: skip
    registry = SimpleNamespace(OWNERS=dict.fromkeys(owners, ()), NEEDS=needs)
    simulate({}, {'mmext.registry': registry})
    found = list(environment.check_plugins())
    assert [item.check for item in found] == ['plugin mat', 'plugins']
    assert found[0].status == 'info' and 'needs nowhere, lost for' in found[0].detail
    assert ': pip install nowhere lost' in found[0].detail and found[1].detail == 'ready: mat_two'


@pytest.mark.parametrize(
    ('versions', 'extras', 'said'),
    [
        ({}, ('upstream',), "pip install 'mmext[upstream]'"),
        ({}, ('mmdet', 'video'), "pip install 'mmext[upstream,video]'"),
        ({}, ('onedl',), "MMCV_WITH_OPS=0 pip install 'mmext[onedl]'"),
        (
            {'mmengine': '0.10.4', 'mmcv': '2.1.0'},
            ('mmdet', 'video'),
            "pip install 'mmext[video]' mmdet==3.3.0",
        ),
        ({'mmengine': '0.10.4'}, ('mmdet',), 'pip install mmdet==3.3.0 mmcv-lite==2.1.0'),
        (
            {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6'},
            ('mmdet', 'mmpretrain'),
            'pip install onedl-mmdetection==3.5.1 onedl-mmpretrain==1.3.6',
        ),
        (
            {'onedl-mmengine': '0.10.12'},
            ('mmpretrain',),
            'MMCV_WITH_OPS=0 pip install onedl-mmpretrain==1.3.6 onedl-mmcv==2.3.6',
        ),
        (
            {'onedl-mmengine': '0.10.12', 'mmdet': '3.3.0', 'mmcv-lite': '2.1.0'},
            ('mmpretrain',),
            'pip install mmpretrain==1.2.0',
        ),
        ({}, ('scipy', 'cv2'), 'pip install scipy opencv-python-headless'),
        # The newest torchvision would bring another torch.
        ({'torch': '2.1.2+cu121'}, ('torchvision',), "pip install 'torchvision==0.16.*'"),
    ],
)
def test_advice_adds_and_replaces_nothing(simulate, versions, extras, said):
    simulate(versions)
    assert environment.install_command(*extras) == said


def test_the_extras_are_those_of_the_package(root):
    text = (root / 'pyproject.toml').read_text()
    declared = re.findall(r'^optional-dependencies\.(\w+)', text, re.MULTILINE)
    assert tuple(declared) == environment.EXTRAS


def installed(combination, **changed):
    """Distributions of the upstream stack in the versions of a combination."""
    versions = {**combination, **changed}
    return {name: version for name, version in versions.items() if version}


def test_a_tested_combination_says_nothing_and_any_other_names_what_differs(simulate, monkeypatch):
    monkeypatch.delenv(environment.UNTESTED, raising=False)
    tested = environment.COMBINATIONS[0]
    simulate(installed(tested, torch='2.14.1+cpu'))
    assert environment.untested() == ''
    # A run needs no MMDetection.
    simulate(installed(tested, torch='2.14.0', mmdet=None))
    assert environment.untested() == ''
    simulate(installed(tested, torch='2.1.99', mmcv='2.0.1'))
    said = environment.untested()
    assert 'untested with torch 2.1.99, mmcv 2.0.1 (tested: torch ' in said and '\n' not in said
    # Each version is of some combination, but no run had both.
    onedl = environment.COMBINATIONS[-1]
    simulate(installed(tested, mmdet=onedl['mmdet']))
    assert f'untested with mmdet {onedl["mmdet"]} (tested: mmdet {tested["mmdet"]})' in (
        environment.untested()
    )
    monkeypatch.setenv(environment.UNTESTED, 'quiet')
    assert environment.untested() == ''


def test_the_page_lists_the_tested_combinations(root):
    """Rows: Python, torch, torchvision, MMEngine, mmcv, MMDetection, MMPretrain, result."""
    page = (root / 'docs/install.md').read_text()
    rows = [
        re.findall(r'[^|\s][^|]*?(?= \|)', line)
        for line in re.findall(r'^\| 3\.\d+ .*\|$', page, re.M)
    ]
    assert all(len(row) == 8 for row in rows), rows
    listed = {(row[1].rpartition('.')[0], *row[3:7]) for row in rows}
    assert listed == {tuple(combination.values()) for combination in environment.COMBINATIONS}


def test_importing_the_module_needs_the_standard_library_only():
    imported = {name.partition('.')[0] for name in vars(environment) if not name.startswith('_')}
    assert not imported & {'torch', 'mmengine', 'rich', 'numpy', 'mmext'}
