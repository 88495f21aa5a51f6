"""The script behind `make setup`: what decides that an environment can be used again."""

import importlib.util
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def env(root, tmp_path, monkeypatch):
    """tools/env.py on a copy of what it reads, with installs recorded instead of run."""
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
    module.commands = []

    def run(*command, **environment):
        module.commands.append([str(part) for part in command])

    monkeypatch.setattr(module, 'run', run)

    def create(target, with_pip):
        (target / 'lib/python3/site-packages').mkdir(parents=True)

    monkeypatch.setattr('venv.create', create)
    return module


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
    command, last = env.commands[-2:]
    assert str(env.REQUIREMENTS / 'constraints.txt') == command[command.index('-c') + 1]
    assert any(part.endswith('onedl.txt') for part in command)
    assert not any(part.endswith('upstream.txt') for part in command)
    # torchattacks, whose requirements contradict Flower's.
    assert '--no-deps' in last and '--no-deps' not in command
    assert str(env.REQUIREMENTS / 'constraints.txt') == last[last.index('-c') + 1]


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
