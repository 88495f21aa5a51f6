"""The study of ctf_gan: the quick form, going on after a kill, the verdict."""

import json

import pytest


@pytest.fixture
def study(import_script):
    return import_script('ctf_gan', 'study')


@pytest.fixture
def training(import_script):
    return import_script('ctf_gan', 'training')


@pytest.mark.timeout(900)
@pytest.mark.parametrize('name', ['digits', 'glyphs'])
def test_the_study_runs_and_goes_on(study, root, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(root)
    command = ['--quick', '--work-dir', str(tmp_path), '--set', name]

    def start():
        study.main(*study.STUDIES, choose=study.CHOOSE, arguments=command)
        return capsys.readouterr().out

    start()
    work = tmp_path / name / 'quick'
    result = json.loads((work / f'results/{name}.json').read_text())
    assert [row['method'] for row in result['rows']] == list(study.METHODS)
    assert result['rows'][5]['metrics']['FID-C']['mean'] > 0
    assert 'n_real=' in result['rows'][0]['protocol']
    assert (work / f'results/{name}_samples.png').stat().st_size > 10_000
    if name == 'glyphs':
        return
    # One was not measured, of another the settings have changed.
    lost, other = (work / f'digits-{name}-70---0' for name in ('CTF+SSL', 'SN-GAN'))
    whole = json.loads((lost / 'record.json').read_text())
    (lost / 'record.json').unlink()
    (other / 'settings.sha256').write_text('x')
    out = start()
    assert '2/2 ' in out and '/6 ' not in out
    assert 'is of a run with other settings: again' in (other / 'log.txt').read_text()
    assert len(list(other.glob('2*'))) == 1 and (other / 'record.json').exists()
    found = json.loads((lost / 'record.json').read_text())
    for part in ('found', 'shut'):
        for key, value in whole[part].items():
            # Resumed at its last iteration: the same generator, measured again.
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
            assert found[part][key] == expected
    assert whole['found'] != whole['shut'] and whole['gates'] > 0
    assert found['minutes'] == whole['minutes']  # no iteration was left


def test_the_minutes_of_a_killed_training_count(training, tmp_path, monkeypatch):
    from types import SimpleNamespace

    clock = iter([600.0, 720.0, 780.0, 0.0, 60.0, 90.0])
    monkeypatch.setattr(training.time, 'process_time', lambda: next(clock))
    path, runner = tmp_path / 'trained.json', SimpleNamespace(iter=0, max_iters=6)
    killed = training.stopwatch(path, 2)
    killed.before_train(runner)
    for runner.iter in range(4):
        killed.after_train_iter(runner, runner.iter)
    assert json.loads(path.read_text()) == {'minutes': 3}
    again = training.stopwatch(path, 2)
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
    from harness.report import Found

    values = {study.OURS: ours, study.WITHOUT: [without] * len(ours)}
    records = {}
    for method in study.METHODS:
        for seed, value in enumerate(values.get(method, baseline)):
            told = {f'gan/{which}/{m}': 50.0 for which in ('ema', 'orig') for m in study.MEASURES}
            record = {'seed': seed, 'found': told | {'gan/ema/FID-C': value}}
            records.setdefault(('digits', method), []).append(record)

    def judged(scores):
        tuning = [{'arms': [study.BASELINE], 'scores': scores}] if scores else []
        return study.judge(Found(study.STUDIES[0], records, {}, tuning))

    found, why = judged({'1': 5.0, '2': 6.0})
    assert found == verdict and f'{len(ours)} seeds' in why and 'standard error' in why
    # Without a lead there is none to explain.
    assert ('self-supervision' in why) == (without < min(ours) and verdict != 'not met')
    for tuned in ({}, {'1': 5.0, '2': 4.0}):
        found, why = judged(tuned)
        assert found == ('partly' if verdict == 'met' else verdict)
        assert ('4 (x 2)' in why) == bool(tuned)


def test_the_six_methods_differ_as_the_table_says(study, training):
    found = {}
    for method, has in study.METHODS.items():
        cfg = training.load('ctf-gan-ssl_digits.py', quick=False)
        training.configure(cfg, has, 0)
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
