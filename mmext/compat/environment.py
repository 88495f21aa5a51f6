"""What is installed, what is wrong with it and how to fix it: the logic of ``mmext doctor``.

The module imports nothing outside the standard library until :func:`diagnose` is called, because it
must also work where torch, MMEngine or rich are missing or broken.
"""

import importlib
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

#: Import name -> distributions that provide it -> version that mmext is tested with.
TESTED: dict[str, dict[str, str]] = {
    'mmengine': {
        'mmengine': '0.11.0rc3',
        'mmengine-lite': '0.11.0rc3',
        'onedl-mmengine': '0.10.12',
    },
    'mmcv': {'mmcv-lite': '2.1.0', 'mmcv': '2.1.0', 'mmcv-full': '2.1.0', 'onedl-mmcv': '2.3.6'},
    'mmdet': {'mmdet': '3.3.0', 'onedl-mmdetection': '3.5.1'},
    'mmpretrain': {'mmpretrain': '1.2.0', 'onedl-mmpretrain': '1.3.6'},
}

#: What whole runs were tested with (``docs/install.md`` says which): import name -> version. Torch
#: counts by its minor version.
COMBINATIONS: tuple[dict[str, str], ...] = tuple(
    dict(zip(('torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain'), versions.split(), strict=True))
    for versions in (
        '2.14 0.11.0rc3 2.1.0 3.3.0 1.2.0',
        '2.9 0.11.0rc3 2.1.0 3.3.0 1.2.0',
        '2.4 0.10.7 2.1.0 3.3.0 1.2.0',
        '2.1 0.10.4 2.1.0 3.3.0 1.2.0',
        '2.14 0.10.12 2.3.6 3.5.1 1.3.6',
    )
)

#: Environment variable; the value ``quiet`` keeps :func:`untested` from saying anything.
UNTESTED = 'MMEXT_UNTESTED'

#: Extras of mmext.
EXTRAS = (
    'upstream', 'onedl', 'data', 'video', 'system', 'deploy', 'terngrad', 'completion', 'docs',
    'tests',
)  # fmt: skip

_OPENCV = (
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'opencv-contrib-python-headless',
)

_SHARED_MIB = 256


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at, e.g. ``'torch'``.
        status: ``'ok'``; ``'info'`` (nothing wrong); ``'warning'`` (may go wrong); ``'error'``
            (broken).
        detail: What was found, one line.
        fix: What to do about a warning or an error, one line; empty otherwise.
    """

    check: str
    status: str
    detail: str
    fix: str = ''


def diagnose() -> list[Finding]:
    """Look at the Python environment of this process.

    Imports the packages it reports on (some seconds), changes nothing and needs no network. A
    package that is missing or fails to import is a finding, never an exception.

    Returns:
        list[Finding]: In a fixed order; the environment is broken if any has status ``'error'``.
    """
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings.extend(check())
        # Broken binaries raise anything, and the other checks are wanted all the more then.
        except Exception as error:
            name = check.__name__.removeprefix('check_')
            findings.append(
                Finding(name, 'error', f'the check failed: {_line(error)}', 'reinstall the package')
            )
    return findings


def stack() -> str:
    """Flavour of the OpenMMLab packages that are installed: ``'onedl'`` or ``'upstream'``.

    Where both are, or neither, it is ``'upstream'``.
    """
    found = {name for names in TESTED.values() for name in names if _version(name)}
    forks = {name for name in found if name.startswith('onedl-')}
    return 'onedl' if forks and forks == found else 'upstream'


def install_command(*wanted: str) -> str:
    """Command that adds to this environment what is missing, and replaces nothing there.

    Args:
        wanted: Extras of mmext, import names of OpenMMLab packages, or distributions. OpenMMLab
            packages come from the installed stack; without MMEngine, from the extra ``upstream``.

    Example:
        >>> install_command('mmdet', 'video')  # where MMEngine and mmcv are installed
        "pip install 'mmext[video]' mmdet==3.3.0"
    """
    hosts = [name for name in wanted if name in TESTED]
    extras = [name for name in wanted if name in EXTRAS]
    other = {'cv2': 'opencv-python-headless', 'torchvision': f"'{_torchvision()}'"}
    packages = [other.get(name, name) for name in wanted if name not in {*hosts, *extras}]
    fork = stack() == 'onedl'
    if hosts and not _installed('mmengine'):
        extras, hosts = ['upstream', *extras], []
    if hosts and not _installed('mmcv'):
        hosts.append('mmcv')
    for module in hosts:
        name = next(one for one in TESTED[module] if one.startswith('onedl-') == fork)
        packages.append(f'{name}=={TESTED[module][name]}')
    if extras:
        packages.insert(0, f"'mmext[{','.join(dict.fromkeys(extras))}]'")
    # onedl-mmcv comes as sources and would compile its operators.
    builds = 'onedl' in extras or any(one.startswith('onedl-mmcv=') for one in packages)
    return f'{"MMCV_WITH_OPS=0 " if builds else ""}pip install {" ".join(dict.fromkeys(packages))}'


def untested() -> str:
    """One line about an environment that no whole run of mmext was tested in.

    Returns:
        str: The versions that are not those of the nearest of :data:`COMBINATIONS`; empty where
        there are none, and where ``MMEXT_UNTESTED=quiet`` is set.
    """
    if os.environ.get(UNTESTED) == 'quiet':
        return ''
    versions = {'torch': _version('torch') or '', **{name: _installed(name) for name in TESTED}}
    there = {name: version for name, version in versions.items() if version}

    def differing(tested: dict[str, str]) -> list[str]:
        return [name for name, version in there.items() if not _same(version, tested[name])]

    nearest = min(COMBINATIONS, key=lambda tested: len(differing(tested)))
    names = differing(nearest)
    if not names:
        return ''
    found = ', '.join(f'{name} {there[name]}' for name in names)
    tested = ', '.join(f'{name} {nearest[name]}' for name in names)
    return f'mmext is untested with {found} (tested: {tested}); {UNTESTED}=quiet silences this.'


def check_python() -> Iterator[Finding]:
    """Python version against the tested range."""
    version = sys.version_info[:2]
    text = f'{sys.version.split()[0]} ({sys.executable})'
    if version < (3, 10):
        yield Finding('python', 'error', text, 'use Python 3.10 to 3.12')
    elif version > (3, 12):
        yield Finding('python', 'warning', f'{text}, untested', 'use Python 3.10 to 3.12')
    else:
        yield Finding('python', 'ok', text)


def check_torch() -> Iterator[Finding]:
    """The torch and torchvision pair: both load and an operator of torchvision runs."""
    torch, problem = _try_import('torch')
    if torch is None:
        yield Finding('torch', 'error', problem, 'pip install torch torchvision')
        return
    yield Finding(
        'torch', 'ok', f'{torch.__version__}, CUDA {torch.version.cuda or "not built in"}'
    )
    pair = _torchvision(torch.__version__)
    fix = f"pip install 'torch=={torch.__version__}' '{pair}', both from one index"
    torchvision, problem = _try_import('torchvision')
    if torchvision is not None:
        try:
            kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
            problem = '' if kept.tolist() == [0] else f'nms returns {kept.tolist()} instead of [0]'
        # A wheel for another torch has no operators (AttributeError, RuntimeError, NotImplemented).
        except Exception as error:
            problem = f'operators of {torchvision.__version__} do not run: {_line(error)}'
    if torchvision is None or problem:
        yield Finding('torchvision', 'error', problem, fix)
    else:
        yield Finding('torchvision', 'ok', f'{torchvision.__version__}, operators run')


def check_gpus() -> Iterator[Finding]:
    """GPUs, and a driver that torch cannot use."""
    torch, _ = _try_import('torch')
    if torch is None:
        return
    if not torch.cuda.is_available():
        if os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
            yield Finding('gpu', 'info', 'hidden by CUDA_VISIBLE_DEVICES, the CPU is used')
        elif shutil.which('nvidia-smi') or Path('/proc/driver/nvidia/version').exists():
            fix = (
                f'update the driver for CUDA {torch.version.cuda} or install torch for an older one'
                if torch.version.cuda
                else 'install a CUDA build: https://pytorch.org/get-started/locally'
            )
            yield Finding('gpu', 'warning', 'an NVIDIA driver, but torch sees no GPU', fix)
        else:
            yield Finding('gpu', 'info', 'none, the CPU is used')
        return
    architectures = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        text = f'{index}: {torch.cuda.get_device_name(index)}, sm_{major}{minor}'
        # Machine code runs on later minors of its major, PTX ("compute_") on everything later.
        if any(re.match(rf'sm_{major}\d\b|compute_', name) for name in architectures):
            yield Finding('gpu', 'ok', text)
        else:
            fix = 'install a torch build for this GPU: https://pytorch.org/get-started/locally'
            yield Finding('gpu', 'error', f'{text}: not among {" ".join(architectures)}', fix)


def check_openmmlab() -> Iterator[Finding]:
    """Flavour and version of each OpenMMLab package, from the metadata, and whether it imports."""
    flavours = set()
    for module, tested in TESTED.items():
        found = {name: version for name in tested if (version := _version(name))}
        if not found:
            required = module == 'mmengine'
            fix = install_command('upstream') if required else ''
            yield Finding(module, 'error' if required else 'info', 'not installed', fix)
            continue
        text = ', '.join(f'{name} {version}' for name, version in found.items())
        if len(found) > 1:
            keep = next(iter(found))
            yield Finding(
                module,
                'error',
                f'{text}: both write into the folder {module}/ and overwrite each other',
                f'pip uninstall -y {" ".join(found)} && pip install {keep}=={found[keep]}',
            )
            continue
        ((name, version),) = found.items()
        flavours.add('onedl' if name.startswith('onedl-') else 'upstream')
        _, problem = _try_import(module)
        pip = f'{"MMCV_WITH_OPS=0 " if name == "onedl-mmcv" else ""}pip install'
        if problem:
            fix = f"{pip} --force-reinstall --no-deps '{name}=={tested[name]}'"
            yield Finding(module, 'error', f'{text} does not import: {problem}', fix)
        elif not any(version == combination[module] for combination in COMBINATIONS):
            fix = f"if something fails: {pip} '{name}=={tested[name]}'"
            yield Finding(module, 'warning', f'{text}, tested is {tested[name]}', fix)
        else:
            yield Finding(module, 'ok', text)
    if len(flavours) > 1:
        yield Finding(
            'openmmlab',
            'warning',
            'packages of upstream and of onedl are mixed',
            "in a fresh environment: pip install 'mmext[upstream]', or "
            "MMCV_WITH_OPS=0 pip install 'mmext[onedl]'",
        )
    mmcv = _installed('mmcv')
    if _version('mmdet') and _release(mmcv) >= (2, 2):
        yield Finding(
            'mmdet',
            'error',
            f'mmdet {_version("mmdet")} refuses mmcv {mmcv} (it asks for < 2.2.0)',
            "pip uninstall -y mmcv mmcv-lite && pip install 'mmcv-lite==2.1.0'",
        )


def check_mmcv_ops() -> Iterator[Finding]:
    """Where the operators of mmcv come from and whether they load."""
    ops, problem = _try_import('mmext.compat.mmcv_ops')
    if ops is None:
        fix = 'fix the errors above; then pip install -e . in the checkout of mmext'
        yield Finding('mmcv ops', 'error', f'mmext does not import: {problem}', fix)
        return
    flavour = ops.flavour()
    if flavour == 'absent':
        return
    if flavour == 'off':
        fix = 'unset MMEXT_MMCV_OPS, or import mmext before mmdet'
        yield Finding('mmcv ops', 'error', 'none, and not replaced: mmdet does not import', fix)
        return
    _, problem = _try_import('mmcv._ext')
    if problem and flavour == 'compiled':
        fix = "pip uninstall -y mmcv && pip install 'mmcv-lite==2.1.0'"
        if stack() == 'onedl':
            again = f"--no-cache-dir --no-deps 'onedl-mmcv=={TESTED['mmcv']['onedl-mmcv']}'"
            fix = f'pip uninstall -y onedl-mmcv && MMCV_WITH_OPS=0 pip install {again}'
        yield Finding('mmcv ops', 'error', f'compiled for another torch: {problem}', fix)
    elif problem:
        yield Finding('mmcv ops', 'error', problem, 'install the torchvision that matches torch')
    else:
        source = (
            'compiled' if flavour == 'compiled' else 'not compiled, torchvision kernels instead'
        )
        yield Finding('mmcv ops', 'ok', source)


def check_known_traps() -> Iterator[Finding]:
    """Combinations with MMEngine <= 0.10 that fail late, in the middle of a run."""
    mmengine = _version('mmengine') or _version('mmengine-lite')
    if mmengine is None or _release(mmengine) >= (0, 11):
        return
    if find_spec('pkg_resources') is None:
        yield Finding(
            'setuptools',
            'error',
            f'{_version("setuptools")} has no pkg_resources, which mmengine {mmengine} needs for '
            "_base_='mmdet::…'",
            "pip install 'setuptools<82' or 'mmengine==0.11.0rc3'",
        )
    if _release(_version('torch') or '0') >= (2, 6):
        yield Finding(
            'resume',
            'error',
            f'mmengine {mmengine} cannot resume with torch >= 2.6 (weights_only)',
            "pip install 'mmengine==0.11.0rc3'",
        )


def check_opencv() -> Iterator[Finding]:
    """OpenCV: one distribution only, and its system libraries."""
    found = [name for name in _OPENCV if _version(name)]
    cv2, problem = _try_import('cv2')
    if cv2 is None:
        needed = _version('mmengine') or _version('onedl-mmengine') or found
        fix = 'pip install opencv-python-headless'
        if found:
            fix = f'pip uninstall -y {" ".join(found)} && {fix}'
        if 'libGL' in problem:
            fix += ' (or: apt-get install libgl1)'
        yield Finding('opencv', 'error' if needed else 'info', problem, fix if needed else '')
    elif len({_version(name) for name in found}) > 1:
        fix = f'pip uninstall -y {" ".join(found)} && pip install {found[0]}'
        yield Finding('opencv', 'warning', f'{" and ".join(found)} overwrite each other', fix)
    else:
        # Several of one version bring the same code: imaug, which onedl needs, requires two.
        yield Finding('opencv', 'ok', f'{" and ".join(found) or "cv2"} {cv2.__version__}')


def check_numpy() -> Iterator[Finding]:
    """NumPy 2 with binaries that were compiled for NumPy 1."""
    numpy, problem = _try_import('numpy')
    if numpy is None:
        yield Finding('numpy', 'error', problem, 'pip install numpy')
        return
    old = []
    torch, _ = _try_import('torch')
    if torch is not None:
        try:
            torch.from_numpy(numpy.zeros(1))
        except RuntimeError:  # "Numpy is not available"
            old.append('torch')
    for module, package in {'pycocotools._mask': 'pycocotools', 'sklearn': 'scikit-learn'}.items():
        if _version(package):
            _, problem = _try_import(module)
            if 'numpy' in problem.lower() or '_ARRAY_API' in problem:
                old.append(package)
    if old:
        names = ', '.join(old)
        fix = f"pip install --upgrade --force-reinstall {' '.join(old)}, or pip install 'numpy<2'"
        yield Finding(
            'numpy', 'error', f'{numpy.__version__} does not fit the binary of {names}', fix
        )
    else:
        yield Finding('numpy', 'ok', numpy.__version__)


def check_configs() -> Iterator[Finding]:
    """Whether ``_base_ = 'mmext::…'`` finds the configs of mmext."""
    _, problem = _try_import('mmext')
    config, _ = _try_import('mmengine.config')
    if problem or config is None:
        return
    base = 'mmext::_base_/default_runtime.py'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'probe.py'
        path.write_text(f'_base_ = {base!r}\n')
        try:
            config.Config.fromfile(str(path))
        # Which one depends on MMEngine's version and on what is missing.
        except Exception as error:
            fix = 'pip install -e . in the checkout of mmext'
            yield Finding('mmext:: configs', 'error', f'{base}: {_line(error)}', fix)
        else:
            yield Finding('mmext:: configs', 'ok', 'found')


def check_shared_memory() -> Iterator[Finding]:
    """Room for the batches of dataloader workers; containers get 64 MiB unless told otherwise."""
    try:
        room = os.statvfs('/dev/shm')
    except (AttributeError, OSError):  # not Linux
        return
    size = room.f_frsize * room.f_blocks / 2**20
    if size < _SHARED_MIB:
        yield Finding(
            'shared memory',
            'warning',
            f'/dev/shm has {size:.0f} MiB: workers of a dataloader may die with a bus error',
            'start the container with --shm-size=2g or --ipc=host, or train with num_workers=0',
        )


def check_plugins() -> Iterator[Finding]:
    """Which plugins of mmext have all packages that they need."""
    registry, _ = _try_import('mmext.registry')
    if registry is None:  # check_mmcv_ops says why
        return
    ready = []
    for name in sorted({owner.split('.')[2] for owner in registry.OWNERS if '.plugins.' in owner}):
        prefix = f'mmext.plugins.{name}'
        needed = [
            package
            for module, packages in registry.NEEDS.items()
            if module == prefix or module.startswith(f'{prefix}.')
            for package in packages
        ]
        lacking = [package for package in dict.fromkeys(needed) if find_spec(package) is None]
        if not lacking:
            ready.append(name)
            continue
        detail = f'needs {", ".join(lacking)} for some or all of it: {install_command(*lacking)}'
        yield Finding(f'plugin {name}', 'info', detail)
    yield Finding('plugins', 'ok' if ready else 'info', f'ready: {", ".join(ready) or "none"}')


#: The checks in the order of the report.
CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_torch,
    check_gpus,
    check_openmmlab,
    check_mmcv_ops,
    check_known_traps,
    check_opencv,
    check_numpy,
    check_shared_memory,
    check_configs,
    check_plugins,
)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(module: str) -> str:
    """Version of the OpenMMLab package that is imported as ``module``; '' if there is none."""
    return next((version for name in TESTED[module] if (version := _version(name))), '')


def _torchvision(torch: str | None = None) -> str:
    """Requirement for the torchvision that fits a torch; None: the installed one."""
    numbers = _release(torch or _version('torch') or '')
    return f'torchvision==0.{numbers[1] + 15}.*' if numbers[0] == 2 else 'torchvision'


def _same(version: str, tested: str) -> bool:
    """Whether a version is the tested one, or one of its patch releases if that has two numbers."""
    plain = version.partition('+')[0]
    return plain == tested or (tested.count('.') == 1 and _release(plain)[:2] == _release(tested))


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(number) for number in match[0].split('.')) if match else (0,)


def _try_import(name: str) -> tuple[ModuleType | None, str]:
    """Return the module and '', or None and what went wrong in one line."""
    try:
        return importlib.import_module(name), ''
    # AssertionError (mmdet's bounds), OSError (missing libraries), AttributeError (numpy) ...
    except Exception as error:
        return None, _line(error)


def _line(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:200]}'
