"""The scripts behind `make reproduce PLUGIN=force_regularization`."""

import json
import sys

import mmengine.runner.runner
import pytest
from mmengine.config import Config


def test_study_runs_resumes_and_draws(import_script, root, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain', reason='needs the extra "pretrain"')
    monkeypatch.chdir(root)
    study = import_script('force_regularization', 'study')
    command = ['--quick', '--work-dir', str(tmp_path)]
    study.main(*study.STUDIES, choose=study.CHOOSE, arguments=command)
    work = tmp_path / 'lenet_digits/quick'
    result = json.loads((work / 'results/lenet_digits.json').read_text())
    rows = {row['method']: row for row in result['rows']}
    assert rows.keys() == {'plain', 'L2 force', "plain at L2's ranks"}
    assert rows["plain at L2's ranks"]['ranks'] == rows['L2 force']['ranks']
    # The same trained network, decomposed in two ways.
    plain, same = (rows[name]['metrics']['dense %'] for name in ('plain', "plain at L2's ranks"))
    assert plain == same
    assert (work / 'results/lenet_digits.png').stat().st_size > 10_000
    record = work / 'lenet_digits-l2-0/record.json'
    record.write_text(json.dumps(json.loads(record.read_text()) | {'dense': 12.5}))
    study.main(*study.STUDIES, choose=study.CHOOSE, arguments=command)
    result = json.loads((work / 'results/lenet_digits.json').read_text())
    # What is there is not run again.
    assert result['rows'][1]['metrics']['dense %']['values'] == [12.5]


def test_strengths_of_a_search_reach_the_hooks(import_script, root, tmp_path):
    pytest.importorskip('mmpretrain', reason='needs the extra "pretrain"')
    study = import_script('force_regularization', 'study')
    from harness.session import sessions

    command = ['--work-dir', str(tmp_path), '--network', 'lenet_digits', '--amp']
    (session,) = sessions(study.STUDIES, study.CHOOSE, command)
    setting = session.study.settings[0]
    keys = {'l2': 'strength', 'l1': 'strength', 'trp': 'nuclear_weight'}
    for search in session.study.searches:
        (arm,), key = search.arms, keys[search.arms[0]]
        shipped = study.configure(next(r for r in session.grid([0]) if r.arm.name == arm))
        assert session.values(arm, setting) == {'strength': study.SHIPPED}
        for value, (run,) in session.trials(search, setting).items():
            cfg = study.configure(run)
            (hook,) = (hook for hook in cfg.custom_hooks if key in hook)
            assert hook[key] == value and run.split == 'val' and run.seed == 9
            assert cfg.custom_hooks[-1].type == 'mmext.AutocastHook'
            hook[key] = next(hook for hook in shipped.custom_hooks if key in hook)[key]
            assert cfg.to_dict() == shipped.to_dict()


def test_cost_runs(import_script, tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmpretrain', reason='needs the extra "pretrain"')
    for place, name in ((Config, 'pretty_text'), (mmengine.runner.runner, 'collect_env')):
        monkeypatch.setattr(place, name, getattr(place, name))  # changed for the process, and back
    cost = import_script('force_regularization', 'cost')
    monkeypatch.setattr(sys, 'argv', ['cost.py', '--quick', '--work-dir', str(tmp_path)])
    cost.main()
    assert "'plain': 1.0" in capsys.readouterr().out
