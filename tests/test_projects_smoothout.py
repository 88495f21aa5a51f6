"""The scripts behind `make reproduce PLUGIN=smoothout`."""

import json
import sys
from functools import partial

import pytest
import torch
from mmengine.config import Config


@pytest.fixture
def script(import_script, monkeypatch):
    """Import a script of projects/smoothout; configs are not formatted, which takes seconds."""
    pytest.importorskip('mmpretrain', reason='needs the extra "pretrain"')
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg._cfg_dict)))
    return partial(import_script, 'smoothout')


def run(script, monkeypatch, name, *options):
    module = script(name)
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', '--quick', *map(str, options)])
    module.main()
    return module


def test_landscape(script, tmp_path, monkeypatch):
    options = ('--work-dir', tmp_path / 'w', '--out', tmp_path)
    module = run(script, monkeypatch, 'landscape', *options)
    result = json.loads((tmp_path / 'landscape.json').read_text())
    assert len(result['rows']) == 4 and (tmp_path / 'landscape.png').stat().st_size > 10_000
    # The sharp minimum is the deeper one, or leaving it would be no feat.
    places = torch.tensor([[place] for place, _, _ in (module.SHARP, module.FLAT)]).double()
    sharp, flat = module.loss(places)
    assert sharp < flat


def test_overhead(script, tmp_path, monkeypatch):
    module = script('overhead')
    monkeypatch.setattr(module, 'SIZE', 16)
    monkeypatch.setattr(module, 'WIDTH', 8)
    run(script, monkeypatch, 'overhead', '--out', tmp_path)
    rows = json.loads((tmp_path / 'overhead.json').read_text())['rows']
    ratios = {row['method']: row['cost']['median time ratio'] for row in rows}
    assert ratios['plain'] == 1 and ratios['SAM'] > 1.3


def test_generalisation_runs_and_goes_on(script, root, tmp_path, monkeypatch, capsys):
    module = script('generalisation')
    monkeypatch.setitem(
        module.DATA, 'digits', dict(images=40, epochs=10, small=(1, 8), large=(2, 8))
    )
    monkeypatch.setattr(module, 'MEASURE', dict(strength=0.01, draws=1, max_iters=1))
    command = ['--quick', '--work-dir', str(tmp_path)]
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit, match='75'):
        module.STUDY.main([*command, '--stop-after', '0'])
    module.STUDY.main(command)
    assert capsys.readouterr().out.count(', seed ') == 2 * 4 * 2
    module.STUDY.main(command)
    assert ', seed ' not in capsys.readouterr().out  # nothing is trained twice
    path = tmp_path / 'generalisation/quick/results/generalisation.json'
    result = json.loads(path.read_text())
    assert len(result['rows']) == 8 and len(result['rows'][0]['metrics']['test %']['values']) == 1
    assert [row['strength'] for row in result['rows'][1:4]] == [0.005, 0.05, 0.03]
    assert {tried['value'] for tried in result['tuning']} == {'lr', 'strength'}


@pytest.mark.parametrize(
    ('smooth', 'flatter', 'verdict'),
    [(3, True, 'met'), (3, False, 'partly'), (-1, True, 'not met'), (0.1, True, 'not met')],
)
def test_verdicts(script, smooth, flatter, verdict):
    study = script('generalisation').STUDY
    from harness.report import Found

    base = [90.0, 91.0, 92.0]
    noise = [-1.0, 0.0, 1.0] if smooth == 0.1 else [0.0, 0.1, 0.2]
    records = {}
    for setting in study.settings:
        for arm in study.arms:
            own = 'SmoothOut' in arm.name
            gains = [smooth + x if own else 0.0 for x in noise]
            sharp = 1.0 if own and flatter else 2.0
            records[setting.name, arm.name] = [
                {'seed': seed, 'accuracy': base[seed] + gain, 'keskar': sharp, 'expected': sharp}
                for seed, gain in enumerate(gains)
            ]
    assert study.rule.judge(Found(study, records, {}))[0] == verdict
