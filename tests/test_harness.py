"""The harness of the studies, on runs that only compute: grid, locks, stamps, statistics, rules."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

SCRIPT = """
    '''A study that computes.'''
    import os
    import sys
    import time
    from pathlib import Path

    sys.path[:0] = [{projects!r}]
    from harness.report import by_interval
    from harness.session import main
    from harness.study import Arm, Rule, Search, Setting, Study

    LOG = Path({log!r})


    def train(run):
        with open(LOG, 'a') as file:
            told = [run.setting.name, run.arm.name, run.seed, run.split, dict(run.values)]
            file.write(repr([*told, os.getpid()]) + chr(10))
        steps = run.folder / 'steps'
        for _ in range(len(steps.read_text()) if steps.exists() else 0, 3):
            with open(steps, 'a') as file:
                file.write('.')
            time.sleep(float(os.environ.get('NAP', '0')))
        if os.environ.get('FAIL') == run.arm.name:
            raise RuntimeError('no more')
        noise = (run.seed * 37 % 11) / 10
        right = -abs(run.values.get('rate', 0.1) - 0.1)
        return {{'score': run.arm.options['gain'] + noise + right + run.seed % 2 * 0.1 *
                 run.arm.options['gain'], 'resumed': steps.read_text()}}


    STUDY = Study(
        name='toy', script={script!r}, claim='ours is better', paper=None,
        arms=(Arm('ours', 'Ours', dict(gain=1.0)), Arm('base', 'Baseline', dict(gain=0.0))),
        settings=(Setting('a', 'set A'), Setting('b', 'set B')),
        seeds=(0, 1, 2), data=lambda work, quick: {{'set': 'numbers', 'manifest': {manifest!r}}},
        train=train, metrics=lambda record: {{'score': record['score']}}, metric='score',
        rule=Rule('the interval lies above 0', by_interval(), compare=(('ours', 'base'),),
                  smallest_effect=0.1),
        searches={searches},
    )
    if __name__ == '__main__':
        main(STUDY)
    """


@pytest.fixture
def toy(root, tmp_path, monkeypatch, import_script, capsys):
    """Function that writes a study and starts it; it has the folder, the log and the study."""
    import_script('cst', 'evidence')
    log = tmp_path / 'log'

    def write(manifest='1', searches='()'):
        script = tmp_path / 'toy_study.py'
        place = str(root / 'projects')
        script.write_text(textwrap.dedent(SCRIPT).format(
            projects=place, log=str(log), script=f'{place}/toy/study.py', manifest=manifest,
            searches=searches,
        ))  # fmt: skip
        return script

    def start(*options, **environment):
        """In a process of its own, to be killed."""
        command = [sys.executable, write(), '--work-dir', tmp_path / 'w', *options]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.Popen([*map(str, command)], env={**os.environ, **environment}, **pipes)

    def load(**more):
        spec = importlib.util.spec_from_file_location('toy_study', write(**more))
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, 'toy_study', module)
        spec.loader.exec_module(module)
        return module.STUDY

    def run(*options, code=None, **more):
        """What it writes and, where it ends early, its exit code or last words."""
        monkeypatch.chdir(root)
        try:
            load(**more).main(['--work-dir', str(tmp_path / 'w'), *options])
        except SystemExit as error:
            assert code is not None and (error.code == code or code in str(error.code)), error.code
        else:
            assert code is None
        return capsys.readouterr().out

    def lines():
        return [eval(line) for line in log.read_text().splitlines()] if log.exists() else []

    yield SimpleNamespace(
        start=start, load=load, run=run, lines=lines, work=tmp_path / 'w/toy', log=log
    )
    written = root / 'projects/toy/results/toy.json'
    assert not written.exists(), 'a test of the harness has written into projects/'


def test_runs_go_seed_by_seed_and_are_made_once(toy):
    out = toy.run('--quick', '--seeds', '0', '1')
    order = [
        (setting, arm, seed) for seed in (0, 1) for setting in 'ab' for arm in ('ours', 'base')
    ]
    assert [tuple(line[:3]) for line in toy.lines()] == order
    assert len({line[5] for line in toy.lines()}) == 8, 'each run has a process of its own'
    assert '8/8 set B, Baseline, seed 1: score' in out and 'about 0 min left' in out
    path = toy.work / 'quick/results/toy.json'
    result = json.loads(path.read_text())
    assert result['verdict'] == 'not testable here' and len(result['rows']) == 4
    assert result['rule'] == {'text': 'the interval lies above 0', 'smallest_effect': 0.1}
    record = json.loads((toy.work / 'quick/a-ours-0/record.json').read_text())
    assert record['core_minutes'] >= 0 and record['memory_mib'] >= 0 and record['seed'] == 0
    path.unlink()
    toy.run('--quick', '--seeds', '0', '1', '--report-only')
    again = json.loads(path.read_text())
    assert again['rows'] == result['rows'] and len(toy.lines()) == 8
    assert [found['ours'] for found in again['intervals']] == ['ours', 'ours']


def test_a_killed_run_goes_on_and_harms_no_other(toy):
    process = toy.start('--quick', NAP='0.3')
    steps = toy.work / 'quick/a-base-0/steps'
    deadline = time.monotonic() + 60
    while not (steps.exists() and steps.read_text() == '..'):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.kill(toy.lines()[-1][5], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and 'Baseline, seed 0: failed with code -9' in errors
    assert not (toy.work / 'quick/a-base-0/record.json').exists()
    toy.run('--quick')
    assert [tuple(line[:2]) for line in toy.lines()] == [
        ('a', 'ours'), ('a', 'base'), ('a', 'base'), ('b', 'ours'), ('b', 'base')
    ]  # fmt: skip
    assert json.loads((toy.work / 'quick/a-base-0/record.json').read_text())['resumed'] == '...'


def test_a_run_that_fails_is_told_with_its_log(toy, monkeypatch):
    monkeypatch.setenv('FAIL', 'base')
    toy.run('--quick', code='RuntimeError: no more\n\nset A, Baseline, seed 0: failed with code 1')
    assert len(toy.lines()) == 2, 'nothing was started after the failure'


def test_two_processes_share_the_grid(toy):
    first, second = (toy.start('--quick', '--seeds', '0', '1', NAP='0.1') for _ in range(2))
    codes = sorted(process.wait(60) for process in (first, second))
    for process in (first, second):
        process.communicate()
    assert codes in ([0, 0], [0, 75])
    runs = [tuple(line[:3]) for line in toy.lines()]
    assert len(runs) == len(set(runs)) == 8


def test_jobs_run_beside_each_other_and_time_ends(toy, monkeypatch):
    out = toy.run('--quick', '--stop-after', '0', code=75)
    assert '4 of 4 runs are left' in out and not toy.lines()
    monkeypatch.setenv('NAP', '1')
    began = time.monotonic()
    toy.run('--quick', '--jobs', '4')
    assert time.monotonic() - began < 9 and len(toy.lines()) == 4


def test_another_manifest_or_source_discards_records(toy):
    toy.run('--quick')
    toy.run('--quick', '--report-only', manifest='2', code='no run is finished')
    toy.run('--quick', manifest='2')
    assert len(toy.lines()) == 8
    steps = toy.work / 'quick/a-ours-0/steps'
    assert steps.read_text() == '...', 'the folder of the other run was not emptied'
    toy.run('--quick', '--amp', manifest='2')
    assert len(toy.lines()) == 12
    result = json.loads((toy.work / 'quick/results/toy.json').read_text())
    assert result['speed'] == ['amp']


def test_code_is_what_counts_in_a_stamp(import_script, tmp_path):
    import_script('cst', 'evidence')
    from harness.folders import hash_of_sources

    path = tmp_path / 'x.py'

    def hashed(text):
        path.write_text(text)
        return hash_of_sources([tmp_path])

    first = hashed('"""A."""\ndef f(x):\n    """B."""\n    return x + 1\n')
    assert first == hashed('"""C."""\n\ndef f(x):\n    """D."""\n    # E\n    return (x + 1)\n')
    assert first != hashed('"""A."""\ndef f(x):\n    """B."""\n    return x + 2\n')
    # A config with its bases; those of the hosts are versions of theirs.
    (tmp_path / 'bases').mkdir()
    base, config = tmp_path / 'bases/base.py', tmp_path / 'config.py'
    config.write_text("_base_ = ['bases/base.py', 'mmdet::_base_/x.py']\nlr = 1\n")
    base.write_text('epochs = 1\n')
    first = hash_of_sources([config])
    base.write_text('epochs = 1  # one\n')
    assert hash_of_sources([config]) == first
    base.write_text('epochs = 2\n')
    assert hash_of_sources([config]) != first
    # A function without its neighbours.
    assert hash_of_sources([hashed]) != hash_of_sources([textwrap.dedent])


SEARCH = "(Search('rate', ('ours', 'base'), (0.01, 0.1, 1.0){}),)"


def test_searches_choose_on_validation_and_are_recorded(toy):
    toy.run('--tune', searches=SEARCH.format(''))
    assert {line[3] for line in toy.lines()} == {'val'} and len(toy.lines()) == 6
    toy.run('--tune', '--settings', 'a', searches=SEARCH.format(", at='b', default=0.01"))
    assert len(toy.lines()) == 6, 'the same trials'
    toy.log.unlink()
    # A quick run tries one value and takes it.
    toy.run('--quick', searches=SEARCH.format(''))
    assert [line[4] for line in toy.lines()] == [{'rate': 0.01}] * 6
    toy.log.unlink()
    toy.run('--pilot', '--settings', 'a', searches=SEARCH.format(''))
    assert {line[3] for line in toy.lines()} == {'val'}
    assert [line[4] for line in toy.lines()] == [{'rate': 0.1}] * 8
    told = json.loads((toy.work / 'pilot.json').read_text())[0]
    spread = np.std(told['values'], ddof=1)
    assert told['std'] == pytest.approx(spread) and len(told['values']) == 4
    assert told['seeds'] == max(3, int(np.ceil((2 * spread / 0.1) ** 2)))


def test_an_arm_that_comes_after_another_waits_for_it(toy):
    from harness.session import sessions

    study = toy.load()
    ours, base = study.arms
    study = dataclasses.replace(study, arms=(dataclasses.replace(ours, after=('base',)), base))
    command = ['--quick', '--jobs', '2', '--arms', 'ours', '--work-dir', str(toy.work.parent)]
    (session,) = sessions([study], arguments=command)
    session.go()
    # Beside each other only where nothing is waited for.
    order = [tuple(line[:2]) for line in toy.lines()]
    for setting in 'ab':
        assert order.index((setting, 'base')) < order.index((setting, 'ours'))
    run = session.grid([0])[0]
    assert run.before['base'].read()['arm'] == 'base'
    assert run.before['base'].stamp in json.loads(run.stamp)[3]


def test_declarations_that_are_unfair_are_refused(toy):
    from harness.study import Rule, Search, Study

    def declare(searches=(), compare=()):
        return Study('x', 'x.py', 'c', None, (), (0,), dict, dict, dict, 'm',
                     Rule('r', None, compare), searches=searches)  # fmt: skip

    with pytest.raises(ValueError, match='as many'):
        declare((Search('a', (), (1, 2)), Search('b', (), (1,))))
    with pytest.raises(ValueError, match=r"no arms \['ours'\]"):
        declare(compare=(('ours', 'ours'),))


def test_intervals_are_students(toy):
    from harness.paired import difference

    rng = np.random.default_rng(0)
    ours, rival = rng.normal(1, 1, 7), rng.normal(0, 1, 7)
    found = difference(ours.tolist(), rival.tolist())
    test = stats.ttest_rel(ours, rival)
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.mean == pytest.approx(np.mean(ours - rival))
    assert difference([1.0], [0.5])[:3] == (0.5, None, None)
    with pytest.raises(ValueError):
        difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(('std', 'effect'), [(1.0, 0.5), (0.7, 0.4), (2.0, 1.1)])
def test_seeds_needed_against_a_simulation(toy, std, effect):
    from harness.paired import seeds_needed

    rng = np.random.default_rng(0)

    def two_errors(count):
        return 2 * rng.normal(0, std, (40_000, count)).mean(1).std()

    count = seeds_needed(std, effect)
    assert two_errors(count) < effect * 1.01 and two_errors(count - 1) > effect
    assert seeds_needed(0.1, 10) == 3
    with pytest.raises(ValueError, match='effect'):
        seeds_needed(1.0, 0.0)


@pytest.mark.parametrize(
    ('gains', 'claim', 'higher', 'verdict'),
    [
        ([1.0, 1.1, 1.2], 0.0, True, 'met'),
        ([1.0, 1.1, 1.2], 1.5, True, 'partly'),
        ([-0.5, 0.2, 2.0], 0.0, True, 'partly'),
        ([-1.0, -1.1, -1.2], 0.0, True, 'not met'),
        ([-1.0, -1.1, -1.2], 0.0, False, 'met'),
        # A loss that is allowed.
        ([-1.0, -1.1, -1.2], -2.0, True, 'met'),
        ([-1.0, -1.1, -1.2], -0.5, True, 'not met'),
    ],
)
def test_rule_by_interval(toy, gains, claim, higher, verdict):
    from harness.report import Found, by_interval

    records = {('', 'ours'): [dict(seed=s, m=10 + g) for s, g in enumerate(gains)],
               ('', 'base'): [dict(seed=s, m=10.0) for s in range(len(gains))]}  # fmt: skip
    study = SimpleNamespace(
        settings=(SimpleNamespace(name='', title=''),), metric='m',
        rule=SimpleNamespace(compare=[('ours', 'base')]), metrics=lambda record: {'m': record['m']},
    )  # fmt: skip
    found = Found(study, records, {})
    assert by_interval(claim, higher)(found)[0] == verdict
    # A seed that one of the two lacks is no pair.
    records['', 'base'] = records['', 'base'][1:]
    assert found.difference('ours', 'base').values == pytest.approx(gains[1:])


def test_an_early_stop_is_told_and_never_met(toy, tmp_path, capsys):
    from evidence import summary
    from harness.session import sessions

    (session,) = sessions([toy.load()], arguments=['--work-dir', str(tmp_path)])
    session.path = tmp_path / 'toy.json'
    runs = session.grid(session.seeds)
    told = []
    for run in runs:
        score = run.seed / 10 + (run.arm.name == 'ours')
        run.keep({'score': score, 'core_minutes': 2.0, 'memory_mib': 3.0})
        if run in (runs[2], runs[-2], runs[-1]):
            session.report(runs)
            told.append(json.loads(session.path.read_text()))
    start, early, whole = told
    assert start['verdict'] == 'not met' and 'not judged: Baseline have not run' in start['why']
    assert early['verdict'] == 'partly' and 'Stopped early, after 11 of 12 runs' in early['why']
    assert whole['verdict'] == 'met' and 'Stopped' not in whole['why']
    assert whole['rows'][0] == {
        'method': 'Ours', 'setting': 'set A', 'cost': {'core minutes': 2.0, 'memory MiB': 3.0},
        'metrics': {'score': summary([1.0, 1.1, 1.2])},
    }  # fmt: skip
    assert whole['command'] == 'python projects/toy/study.py'
    assert 'set A' in capsys.readouterr().out
