import json
import os
import subprocess
import sys

import pytest

from mmext.commands.main import main
from mmext.compat import environment
from mmext.compat.environment import Finding

FINE = Finding('torch', 'ok', '2.14.1')
WARNING = Finding('opencv', 'warning', 'two of them', 'pip uninstall one')
BROKEN = Finding('mmcv', 'error', 'does not import', 'pip install mmcv-lite')


@pytest.fixture
def doctor(monkeypatch):
    """Run ``mmext doctor`` on given findings."""

    def run(findings, *argv):
        def diagnose():
            print('noise of a package')
            return findings

        monkeypatch.setattr(environment, 'diagnose', diagnose)
        return main(['doctor', *argv])

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
    for text in ('2.14.1', 'two of them', 'fix: pip uninstall one', 'fix: pip install mmcv-lite'):
        assert text in out
    assert 'noise' not in out


def test_json_is_nothing_but_json(doctor, capsys):
    assert doctor([FINE, BROKEN], '--json') == 1
    assert json.loads(capsys.readouterr().out) == [
        {'check': 'torch', 'status': 'ok', 'detail': '2.14.1', 'fix': ''},
        {
            'check': 'mmcv',
            'status': 'error',
            'detail': 'does not import',
            'fix': 'pip install mmcv-lite',
        },
    ]


def test_a_host_that_cannot_be_imported_is_no_obstacle(tmp_path):
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine/__init__.py').write_text("raise ImportError('torn wheel')")
    done = subprocess.run(
        [sys.executable, '-m', 'mmext', 'doctor', '--json'],
        env={**os.environ, 'PYTHONPATH': str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = {item['check']: item for item in json.loads(done.stdout)}
    assert found['mmengine']['status'] == 'error' and 'torn wheel' in found['mmengine']['detail']
