"""The scripts behind `make reproduce PLUGIN=force_regularization`."""

import json
import subprocess
import sys


def test_study_runs_resumes_and_draws(root, tmp_path):
    command = [sys.executable, root / 'projects/force_regularization/reproduce.py', '--quick',
               '--out', tmp_path / 'out', '--work-dir', tmp_path / 'work']  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / 'out/lenet_digits.json').read_text())
    rows = {row['method']: row for row in result['rows']}
    assert rows.keys() == {'plain', 'L2 force', "plain at L2's ranks"}
    assert rows["plain at L2's ranks"]['ranks'] == rows['L2 force']['ranks']
    assert (tmp_path / 'out/lenet_digits.png').stat().st_size > 10_000
    record = tmp_path / 'work/lenet_digits_l2_0.json'
    record.write_text(json.dumps(json.loads(record.read_text()) | {'dense': 12.5}))
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    result = json.loads((tmp_path / 'out/lenet_digits.json').read_text())
    # What is there is not run again.
    assert result['rows'][1]['metrics']['dense %']['values'] == [12.5]
