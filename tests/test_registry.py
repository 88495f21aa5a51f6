import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from mmengine.registry import HOOKS, MODELS, DefaultScope, Registry

import mmext
from mmext import registry

NAMES = {name: module for module, names in registry.OWNERS.items() for name in names}


def nodes():
    return [node for node in vars(registry).values() if isinstance(node, registry.LazyRegistry)]


def run(code: str, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


def test_every_mmengine_registry_has_a_child():
    from mmengine.registry import root

    for name, parent in vars(root).items():
        if isinstance(parent, Registry):
            child = getattr(registry, name)
            assert child.parent is parent and child.scope == 'mmext'


def test_the_table_of_owners_is_complete_and_right():
    for name in NAMES:
        registry.registered(name)
    for path in Path(mmext.__file__).parent.glob('plugins/*/*.py'):
        if 'register_module(' in path.read_text():
            import_module(f'mmext.plugins.{path.parent.name}.{path.stem}')
    registered = {
        name: cls
        for node in nodes()
        for name, cls in node.module_dict.items()
        if cls.__module__.startswith('mmext.')
    }
    assert registered.keys() == NAMES.keys()
    for name, cls in registered.items():
        assert getattr(import_module(NAMES[name]), cls.__name__) is cls, name


@pytest.mark.parametrize('scope', [None, 'mmengine', 'mmdet', 'mmpretrain'])
def test_prefixed_names_resolve_under_any_default_scope(scope):
    import time

    if scope:
        DefaultScope.get_instance(f'{scope}{time.time()}', scope_name=scope)
    assert HOOKS.build(dict(type='mmext.CurvesHook')).filename == 'curves.png'
    assert MODELS.get('mmext.CycleSelfTraining').__name__ == 'CycleSelfTraining'


def test_registered_names_are_attributes_of_the_package():
    from mmext.engine.hooks import CurvesHook

    assert mmext.CurvesHook is CurvesHook
    with pytest.raises(AttributeError, match="no attribute 'CurveHook'"):
        _ = mmext.CurveHook


def test_a_registry_of_mmpretrain_without_a_parent_finds_our_names():
    from mmpretrain.registry import BATCH_AUGMENTS

    from mmext.plugins.mat import MATAugment

    assert isinstance(
        BATCH_AUGMENTS.build(dict(type='mmext.MATAugment', strengths=[2])), MATAugment
    )


def test_a_name_imports_its_owner_only():
    code = (
        'import sys, mmext.registry\n'
        'from mmengine.registry import HOOKS\n'
        "HOOKS.get('mmext.CurvesHook')\n"
        "print([m for m in ('mmdet', 'mmpretrain', 'sklearn', 'skimage', 'mmext.plugins.cst')"
        ' if m in sys.modules])'
    )
    done = run(code)
    assert done.stdout.strip().splitlines()[-1] == '[]', done.stderr


def test_a_missing_host_package_names_the_command():
    code = (
        "import sys; sys.modules['mmdet'] = None\n"
        'import importlib.metadata as metadata; version = metadata.version\n'
        'import mmext.registry\n'
        'from mmengine.registry import MODELS\n'
        "metadata.version = lambda name: '1' if name in {} else version('none')\n"
        "MODELS.build(dict(type='mmext.CycleSelfTraining'))"
    )
    stacks = [(), ('mmengine', 'mmcv'), ('onedl-mmengine', 'onedl-mmcv')]
    fresh, upstream, onedl = (run(code.format(stack)) for stack in stacks)
    assert 'needs the package mmdet' in upstream.stderr
    assert ": pip install 'mmext[upstream]'" in fresh.stderr, fresh.stderr
    assert ': pip install mmdet==3.3.0' in upstream.stderr, upstream.stderr
    assert ': pip install onedl-mmdetection==3.5.1' in onedl.stderr, onedl.stderr


def test_a_misspelt_name_is_corrected(caplog):
    code = (
        'import mmext.registry\n'
        'from mmengine.registry import HOOKS\n'
        "print(HOOKS.get('mmext.CurveHook'))"
    )
    done = run(code)
    assert 'did you mean "mmext.CurvesHook"' in done.stdout + done.stderr


def test_importing_the_registry_is_cheap():
    """Less than 0.3 s over mmengine's own registry (median of three, in turn)."""
    code = (
        'import time, mmengine.registry\n'
        'start = time.perf_counter()\n'
        'import mmext.registry\n'
        'print(time.perf_counter() - start)'
    )
    seconds = sorted(float(run(code).stdout.splitlines()[-1]) for _ in range(3))
    assert seconds[1] < 0.3, seconds
