"""The studies of guided_cw and mat run in their short form and write outside results/."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    'plugin, place, studies',
    [
        ('guided_cw', '', ('budget_digits', 'speed')),
        ('mat', 'working_zones/quick', ('working_zones',)),
    ],
)
def test_the_studies_run(root, tmp_path, plugin, place, studies):
    kept = {p: p.read_bytes() for p in (root / f'projects/{plugin}/results').glob('*.*')}
    command = [sys.executable, root / 'projects/reproduce.py', plugin, '--quick', '--work-dir',
               tmp_path]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for study in studies:
        result = json.loads((tmp_path / place / 'results' / f'{study}.json').read_text())
        assert result['rows'] and result['why']
    assert list((tmp_path / place / 'results').glob('*.png'))
    assert {p: p.read_bytes() for p in (root / f'projects/{plugin}/results').glob('*.*')} == kept
