"""The script behind `make setup`: what decides that an environment can be used again."""

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def real_env(root, tmp_path, monkeypatch):
    """tools/env.py on a copy of what it reads."""
    spec = importlib.util.spec_from_file_location('env_script', root / 'tools/env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checkout = tmp_path / 'checkout'
    shutil.copytree(root / 'requirements', checkout / 'requirements')
    for name in module.INSTALL:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, checkout / name)
    monkeypatch.setattr(module, 'ROOT', checkout)
    monkeypatch.setattr(module, 'REQUIREMENTS', checkout / 'requirements')
    monkeypatch.setenv('MMEXT_CACHE', str(tmp_path / 'cache'))
    return module


@pytest.fixture
def env(real_env, monkeypatch):
    """The same, with installs recorded instead of run."""
    real_env.commands = []

    def run(*command, **environment):
        real_env.commands.append([str(part) for part in command])

    monkeypatch.setattr(real_env, 'run', run)

    def create(target, with_pip):
        (target / 'lib/python3/site-packages').mkdir(parents=True)

    monkeypatch.setattr('venv.create', create)
    return real_env


def test_dependencies_are_installed_once_per_content(env):
    first = env.dependencies('upstream')
    installs = len(env.commands)
    assert installs and env.dependencies('upstream') == first and len(env.commands) == installs
    assert env.dependencies('onedl') != first
    constraints = env.REQUIREMENTS / 'constraints.txt'
    constraints.write_text(constraints.read_text() + '# changed\n')
    assert env.dependencies('upstream') != first


def test_pins_and_stack_reach_pip(env):
    env.dependencies('onedl')
    (stack,) = (command for command in env.commands if any('onedl.txt' in part for part in command))
    assert not any('upstream.txt' in part for command in env.commands for part in command)
    constraints = str(env.REQUIREMENTS / 'constraints.txt')
    for command in env.commands:
        assert command[command.index('-c') + 1] == constraints
    # torchattacks, whose requirements contradict Flower's.
    assert '--no-deps' in env.commands[-1] and '--no-deps' not in stack


def files_installed(commands):
    """Names of the requirement files, in the order of pip's commands."""
    return [
        Path(after).stem
        for command in commands
        for before, after in itertools.pairwise(command)
        if before == '-r'
    ]


def test_the_demo_installs_no_more_than_it_needs_and_the_tests_add_only_the_rest(env):
    demo = env.dependencies('upstream', 'demo')
    assert files_installed(env.commands) == ['runtime', 'upstream', 'data']
    env.commands.clear()
    whole = env.dependencies('upstream', 'all')
    rest = ['system', 'clips', 'deploy', 'comparators', 'completion', 'terngrad', 'tests', 'nodeps']
    assert files_installed(env.commands) == rest
    env.commands.clear()
    env.dependencies('upstream', 'docs')
    assert files_installed(env.commands) == ['docs']
    env.commands.clear()
    assert env.dependencies('upstream', 'demo') == demo and not env.commands
    # Every requirement file is in some part.
    known = {path.stem for path in env.REQUIREMENTS.glob('*.txt')}
    assert known == {'runtime', 'upstream', 'data', *rest, 'docs', 'onedl', 'video', 'constraints'}
    system = env.dependencies('upstream', 'system')
    for upper, lower in [(whole, system), (system, demo)]:
        (link,) = upper.rglob(env.BELOW)
        assert f'{lower}/lib' in link.read_text()


def test_each_part_sees_the_packages_of_those_below(env, tmp_path):
    """As pip and the interpreter do: by real .pth files, followed from one to the next."""
    folders = [tmp_path / name / 'lib/python3/site-packages' for name in ('run', 'all', 'demo')]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / f'only_in_{folder.parents[2].name}.py').touch()
    for upper, lower in itertools.pairwise(folders):
        env.stand_on(upper.parents[2], lower.parents[2])
    code = (
        f'import site; site.addsitedir({str(folders[0])!r}); '
        'import only_in_run, only_in_all, only_in_demo'
    )
    subprocess.run([sys.executable, '-I', '-c', code], check=True)


def test_torch_without_cuda_comes_from_its_index_and_nothing_else_does(env):
    plain = env.dependencies('upstream', 'demo')
    env.commands.clear()
    index = 'https://index.invalid/cpu'
    assert env.dependencies('upstream', 'demo', index) != plain
    (command,) = (command for command in env.commands if '--index-url' in command)
    assert command[command.index('--index-url') + 1] == index
    assert command[-2:] == ['torch', 'torchvision'] and '--no-deps' in command
    # Before the others, which then find it installed.
    assert env.commands.index(command) < len(env.commands) - 1
    assert not any('--extra-index-url' in command for command in env.commands)


@pytest.mark.parametrize('requires', ['cuda-toolkit==13.0', 'nvidia-nccl-cu12==2.2', 'filelock'])
def test_torch_with_cuda_is_refused_where_none_was_wanted(env, monkeypatch, requires):
    def run(*command, **environment):
        if '--index-url' in command:
            (library,) = (env.cache_dir()).glob('deps-*/lib/python3/site-packages')
            (library / 'torch-2.14.1.dist-info').mkdir()
            metadata = library / 'torch-2.14.1.dist-info/METADATA'
            metadata.write_text(f'Name: torch\nVersion: 2.14.1\nRequires-Dist: {requires}\n')

    monkeypatch.setattr(env, 'run', run)
    if requires == 'filelock':
        env.dependencies('upstream', 'demo', 'https://index.invalid/cpu')
        return
    with pytest.raises(SystemExit, match='https://index.invalid/cpu: check that this address'):
        env.dependencies('upstream', 'demo', 'https://index.invalid/cpu')
    assert not list(env.cache_dir().glob('*/.ready'))


def fake_index(folder, **wheels):
    """A package index in a folder: name -> version of an empty wheel."""
    for name, version in wheels.items():
        place = folder / name
        place.mkdir(parents=True)
        about = f'{name}-{version}.dist-info'
        with zipfile.ZipFile(place / f'{name}-{version}-py3-none-any.whl', 'w') as wheel:
            wheel.writestr(f'{about}/METADATA', f'Name: {name}\nVersion: {version}\n')
            wheel.writestr(f'{about}/WHEEL', 'Wheel-Version: 1.0\nTag: py3-none-any\n')
            wheel.writestr(f'{about}/RECORD', '')
        links = [f'<a href="{file.name}">{file.name}</a>' for file in place.iterdir()]
        (place / 'index.html').write_text(f'<!doctype html><body>{"".join(links)}</body>')
    return folder.as_uri()


def test_pip_keeps_the_torch_of_the_other_index(real_env, tmp_path, monkeypatch):
    """With pip itself, on indices in folders: the CPU build satisfies the pins and stays."""
    everything = fake_index(
        tmp_path / 'index', torch='2.14.1', torchvision='0.29.1', setuptools='80', wheel='1',
        mmengine='0.11',
    )  # fmt: skip
    cpu = fake_index(tmp_path / 'cpu', torch='2.14.1+cpu', torchvision='0.29.1+cpu', mmengine='9')
    texts = {'runtime': 'torch', 'upstream': 'mmengine\ntorchvision', 'data': ''}
    for name, text in {**texts, 'constraints': 'torch==2.14.1\ntorchvision==0.29.1'}.items():
        (real_env.REQUIREMENTS / f'{name}.txt').write_text(text)
    for name in [name for name in os.environ if name.startswith('PIP_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('PIP_INDEX_URL', everything)
    target = real_env.dependencies('upstream', 'demo', cpu)
    found = {path.name for path in target.rglob('*.dist-info')}
    assert {'torch-2.14.1+cpu.dist-info', 'torchvision-0.29.1+cpu.dist-info'} <= found
    assert 'mmengine-0.11.dist-info' in found


@pytest.mark.parametrize(
    ('argv', 'wanted'),
    [
        ([], ('upstream', 'all', '')),
        (['--for', 'demo', '--stack', 'onedl', '--torch-index', 'x'], ('onedl', 'demo', '')),
        (['--torch', 'cpu', '--torch-index', 'x'], ('upstream', 'all', 'x')),
    ],
)
def test_the_command_line(env, monkeypatch, capsys, argv, wanted):
    monkeypatch.setattr(sys, 'argv', ['env.py', *argv])
    env.main()
    assert capsys.readouterr().out.strip() == str(env.interpreter(env.checkout(*wanted)))


def test_the_targets_of_make_ask_for_what_they_need(root):
    """By a stand-in for Python that prints its arguments."""

    def asked(*arguments):
        done = subprocess.run(
            ['make', '-n', 'PYTHON=echo', *arguments],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith('echo tools/env')]
        return lines[0]

    for target, part in {'demo': 'demo', 'doctor': 'demo', 'mvstylizer-system': 'system',
                         'test': 'all', 'lint': 'all', 'python-path': 'all'}.items():  # fmt: skip
        assert f'--for {part} --torch default' in asked(target)
    cpu = asked('demo', 'TORCH=cpu', 'TORCH_INDEX=file:///wheels')
    assert '--for demo --torch cpu --torch-index file:///wheels' in cpu
    assert '--torch-index https://download.pytorch.org/whl/cpu' in asked('demo', 'TORCH=cpu')
    assert '--for all' in asked('doctor', 'FOR=all')


def test_an_interrupted_install_is_started_again(env, monkeypatch):
    whole = env.run

    def interrupted(*command, **environment):
        raise KeyboardInterrupt

    monkeypatch.setattr(env, 'run', interrupted)
    with pytest.raises(KeyboardInterrupt):
        env.dependencies('upstream')
    monkeypatch.setattr(env, 'run', whole)
    target = env.dependencies('upstream')
    assert env.commands and (target / '.ready').exists()


def test_two_checkouts_share_dependencies_but_not_the_editable_install(env, tmp_path, monkeypatch):
    first, deps = env.checkout('upstream'), env.dependencies('upstream')
    other = tmp_path / 'other'
    shutil.copytree(env.ROOT, other)
    monkeypatch.setattr(env, 'ROOT', other)
    installs = len(env.commands)
    second = env.checkout('upstream')
    assert second != first and env.dependencies('upstream') == deps
    assert len(env.commands) == installs + 1 and str(other) in env.commands[-1]


@pytest.mark.parametrize('lacks', ['venv', 'ensurepip', 'wheels'])
def test_a_python_that_cannot_make_environments_names_the_package(env, monkeypatch, lacks):
    """Debian keeps venv's parts in a package of their own."""
    find = importlib.util.find_spec

    def broken(target, with_pip):
        raise subprocess.CalledProcessError(1, ['python', '-m', 'ensurepip'])

    monkeypatch.setattr('venv.create', broken)
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == lacks else find(name)
    )
    said = {'venv': 'no venv, so', 'ensurepip': 'no ensurepip, so', 'wheels': 'no a working'}[lacks]
    package = f'apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv'
    with pytest.raises(SystemExit, match=said) as error:
        env.dependencies('upstream')
    assert package in str(error.value) and not env.commands
