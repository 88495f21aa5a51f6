"""Settings every test shares."""

import importlib.util
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from mmengine.utils import ManagerMixin
from project_scripts import PROJECTS, importable

# Its handlers make a fork spin where a server of an earlier test still has threads; no fork here
# talks gRPC.
os.environ.setdefault('GRPC_ENABLE_FORK_SUPPORT', '0')

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Put the tests that leave threads of servers behind after those that fork."""
    items.sort(key=lambda item: 'test_mvstylizer_system' in item.path.parts)


@contextmanager
def instances_restored():
    """Forget what MMEngine's managers (default scope, visualizers, loggers, hubs) learn in here."""

    def managers(cls):
        return [cls, *(found for sub in cls.__subclasses__() for found in managers(sub))]

    before = {cls: cls._instance_dict.copy() for cls in managers(ManagerMixin)}
    yield
    for cls in managers(ManagerMixin):
        cls._instance_dict.clear()
        cls._instance_dict.update(before.get(cls, {}))


@pytest.fixture(scope='module', autouse=True)
def _module_leaves_no_instances():
    """Fixtures of one file have no effect on the next, whatever the order."""
    with instances_restored():
        yield


@pytest.fixture(autouse=True)
def _test_leaves_no_instances():
    """No test depends on what another one built."""
    with instances_restored():
        yield


@pytest.fixture(scope='session')
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def tool():
    """Import a script of tools/ as a module; its main() then runs in this process."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def import_script():
    """Function that imports a script of a project, by the names of both."""
    with ExitStack() as stack:

        def load(project: str, name: str):
            if project not in entered:
                stack.enter_context(importable(PROJECTS / project))
                entered.add(project)
            return importlib.import_module(name)

        entered: set[str] = set()
        yield load


@pytest.fixture(scope='session')
def scenes(tmp_path_factory) -> Path:
    """A small set of digit scenes: 24 for training (6 labelled), 6 for validation, 6 for test."""
    sys.path.insert(0, str(ROOT))
    from mmext.datasets.scenes import SceneSettings, generate

    out = tmp_path_factory.mktemp('data') / 'digit_scenes'
    generate(out, SceneSettings(train=24, val=6, test=6, percent=(25,), folds=1))
    return out


@pytest.fixture
def layer_rates():
    """Function of a model: learning rate of each parameter under MMPretrain's layer decay."""
    from mmengine.optim import build_optim_wrapper

    def rates(model):
        settings = dict(
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            paramwise_cfg=dict(layer_decay_rate=0.5),
        )
        groups = build_optim_wrapper(model, settings).optimizer.param_groups
        return {group['param_name']: group['lr'] for group in groups}

    return rates
