import importlib
import json
import sys
from types import SimpleNamespace

import pytest

from mmext.compat.environment import Finding

FINE = Finding('torch', 'ok', '2.14.1')
WARNING = Finding('opencv', 'warning', 'two of them', 'pip uninstall one')
BROKEN = Finding('mmcv', 'error', 'does not import', 'pip install mmcv-lite')


@pytest.fixture
def doctor(tool, monkeypatch):
    """Run tools/doctor.py on given findings."""
    module = tool('doctor')

    def run(findings, *argv):
        def diagnose():
            print('noise of a package')
            return findings

        monkeypatch.setattr(module, 'load_environment', lambda: SimpleNamespace(diagnose=diagnose))
        return module.main(list(argv))

    run.module = module
    return run


@pytest.mark.parametrize(
    ('findings', 'code'), [([FINE], 0), ([FINE, WARNING], 0), ([BROKEN, FINE], 1)]
)
def test_exit_code_tells_whether_something_is_broken(doctor, findings, code):
    assert doctor(findings) == code


@pytest.mark.parametrize('with_rich', [True, False])
def test_report_has_every_detail_and_mend(doctor, capsys, monkeypatch, with_rich):
    if not with_rich:
        monkeypatch.setitem(sys.modules, 'rich.console', None)
    doctor([FINE, WARNING, BROKEN])
    out = capsys.readouterr().out
    for text in ('2.14.1', 'two of them', 'mend: pip uninstall one', 'mend: pip install mmcv-lite'):
        assert text in out
    assert 'noise' not in out


def test_json_is_nothing_but_json(doctor, capsys):
    assert doctor([FINE, BROKEN], '--json') == 1
    assert json.loads(capsys.readouterr().out) == [
        {'check': 'torch', 'status': 'ok', 'detail': '2.14.1', 'mend': ''},
        {
            'check': 'mmcv',
            'status': 'error',
            'detail': 'does not import',
            'mend': 'pip install mmcv-lite',
        },
    ]


def test_a_package_that_cannot_be_imported_is_no_obstacle(tool, monkeypatch, capsys):
    module = tool('doctor')

    def broken(name):
        raise ImportError('mmengine is missing')

    monkeypatch.setattr(importlib, 'import_module', broken)
    environment = module.load_environment()
    monkeypatch.undo()
    assert 'mmengine is missing' in capsys.readouterr().err
    assert environment.__name__ == 'mmext_environment'
    assert {item.check for item in environment.check_python()} == {'python'}
