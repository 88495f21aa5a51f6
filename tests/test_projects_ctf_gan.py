"""The study of ctf_gan: the quick form, going on after a kill, the verdict."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def study(import_script):
    return import_script('ctf_gan', 'study')


def test_the_study_runs_and_goes_on(root, tmp_path):
    kept = {p: p.read_bytes() for p in (root / 'projects/ctf_gan/results').glob('*')}
    command = [sys.executable, root / 'projects/ctf_gan/reproduce.py', '--quick', '--work',
               tmp_path]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ('digits', 'glyphs'):
        result = json.loads((tmp_path / f'results/{name}.json').read_text())
        assert [row['method'] for row in result['rows']][0] == 'SN-GAN 100 %'
        assert len(result['rows']) == 6 and 'seed' in result['why']
        assert result['rows'][5]['metrics']['FID-C']['mean'] > 0
        assert 'n_real=' in result['data']['protocol'][0]
        assert (tmp_path / f'results/{name}_samples.png').stat().st_size > 10_000
    folders = {path.parent.name for path in tmp_path.glob('digits/*/record.json')}
    assert len(folders) == 6 and 'ctfssl-70-_0' in {name.replace('+', '') for name in folders}
    # One was not measured, of another the settings have changed.
    lost, other = (tmp_path / 'digits' / name for name in ('ctf+ssl-70-_0', 'sn-gan-70-_0'))
    whole = json.loads((lost / 'record.json').read_text())
    (lost / 'record.json').unlink()
    (other / 'settings.sha256').write_text('x')
    again = subprocess.run([*command, '--set', 'digits'], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert 'digits: 1 of 6 trainings left' in again.stdout
    assert f'{other} is of a run with other settings: again' in again.stdout
    assert len(list(other.glob('2*'))) == 1 and (other / 'record.json').exists()
    found = json.loads((lost / 'record.json').read_text())
    for part in ('found', 'shut'):
        for key, value in whole[part].items():
            # Resumed at its last iteration: the same generator, measured again.
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
            assert found[part][key] == expected
    assert whole['found'] != whole['shut'] and whole['gates'] > 0
    assert found['minutes'] == whole['minutes']  # no iteration was left
    assert {p: p.read_bytes() for p in (root / 'projects/ctf_gan/results').glob('*')} == kept


def test_the_minutes_of_a_killed_training_count(study, tmp_path, monkeypatch):
    from types import SimpleNamespace

    clock = iter([600.0, 720.0, 780.0, 0.0, 60.0, 90.0])
    monkeypatch.setattr(study.time, 'process_time', lambda: next(clock))
    path, runner = tmp_path / 'trained.json', SimpleNamespace(iter=0, max_iters=6)
    killed = study.stopwatch(path, 2)
    killed.before_train(runner)
    for runner.iter in range(4):
        killed.after_train_iter(runner, runner.iter)
    assert json.loads(path.read_text()) == {'minutes': 3}
    again = study.stopwatch(path, 2)
    again.before_train(runner)
    for runner.iter in range(2, 6):
        again.after_train_iter(runner, runner.iter)
    assert again.minutes == 4.5 == json.loads(path.read_text())['minutes']


@pytest.mark.parametrize(
    'ours, baseline, without, verdict',
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], 1.5, 'met'),
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], 0.5, 'partly'),
        ([1.0, 1.1], [2.0, 2.1], 1.5, 'partly'),
        # Ahead by less than two standard errors, by less than one, and behind.
        ([1.0, 2.0, 0.6], [2.0, 2.9, 1.4], 9.0, 'partly'),
        ([1.0, 4.0, 0.5], [2.0, 3.1, 0.9], 9.0, 'not met'),
        ([3.0, 3.1, 2.9], [2.0, 2.1, 1.9], 9.0, 'not met'),
        ([3.0, 3.1, 2.9], [2.0, 2.1, 1.9], 2.5, 'not met'),
    ],
)
def test_the_verdict_follows_from_the_rows(study, ours, baseline, without, verdict):
    from evidence import summary

    rows = []
    for method in study.METHODS:
        metrics = dict.fromkeys(study.MEASURES, summary([50.0]))
        values = {study.OURS: ours, study.WITHOUT: [without]}
        metrics['FID-C'] = summary(values.get(method, baseline))
        rows.append({'method': method, 'metrics': metrics})
    best = {study.BASELINE: {'1': 5.0, '2': 6.0}}
    found, why = study.judge(rows, best)
    assert found == verdict and f'{len(ours)} seeds' in why and 'standard error' in why
    # Without a lead there is none to explain.
    assert ('self-supervision' in why) == (without < min(ours) and verdict != 'not met')
    for tuned in ({}, {study.BASELINE: {'1': 5.0, '2': 4.0}}):
        found, why = study.judge(rows, tuned)
        assert found == ('partly' if verdict == 'met' else verdict)
        assert ('4 (x 2)' in why) == bool(tuned)


def test_the_six_methods_differ_as_the_table_says(study):
    found = {}
    for method in study.METHODS:
        cfg = study.load('ctf-gan-ssl_digits.py', quick=False)
        study.configure(cfg, method, 0)
        parts = cfg.train_dataloader.dataset.datasets
        found[method] = (
            parts[0].hq_ratio, len(parts), cfg.model.transfer is not None,
            cfg.model.self_supervision is not None, cfg.train_dataloader.batch_size,
            'transfer' in cfg.optim_wrapper,
        )  # fmt: skip
    assert list(found.values()) == [
        (1.0, 1, False, False, 32, False),
        (0.7, 1, False, False, 32, False),
        (0.7, 2, False, False, 32, False),
        (0.7, 1, False, True, 32, False),
        # 32 of them are real images for the discriminator.
        (0.7, 2, True, False, 36, True),
        (0.7, 2, True, True, 36, True),
    ]
