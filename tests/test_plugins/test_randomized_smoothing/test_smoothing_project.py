"""The scripts behind `make reproduce PLUGIN=randomized_smoothing`."""

import importlib.util
import sys

import pytest
from smoothing_runs import CONFIGS

PROJECT = CONFIGS.parents[1] / 'projects/randomized_smoothing'


@pytest.fixture
def load(monkeypatch):
    """Import a script of the project as a module."""
    monkeypatch.setattr(sys, 'path', list(sys.path))

    def script(name):
        spec = importlib.util.spec_from_file_location(f'smoothing_{name}', PROJECT / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        # Its dataclasses look their module up.
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return script


@pytest.fixture
def study(load):
    return load('study')


def files():
    return sorted(path for path in PROJECT.rglob('*') if '__pycache__' not in path.parts)


@pytest.mark.parametrize('name', ['coverage', 'throughput', 'study'])
def test_quick_form_runs_and_leaves_the_results_alone(name, load, tmp_path, monkeypatch, capsys):
    before = files()
    options = ['--work-dir', str(tmp_path)] if name == 'study' else []
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', '--quick', *options])
    module = load(name)
    module.main()
    assert files() == before and capsys.readouterr().out
    if name == 'study':
        made = {path.name for path in (tmp_path / 'quick_results').iterdir()}
        assert made == {'adre.json', 't_certify.json', 'curves.png'}
        runs = {path: path.stat().st_mtime_ns for path in (tmp_path / 'quick').glob('*.json')}
        module.main()
        assert runs == {path: path.stat().st_mtime_ns for path in runs} and len(runs) == 7


def test_a_study_that_is_out_of_time_says_so(study, tmp_path, monkeypatch):
    argv = ['study.py', '--quick', '--work-dir', str(tmp_path), '--stop-after', '-1']
    monkeypatch.setattr(sys, 'argv', argv)
    with pytest.raises(SystemExit) as stopped:
        study.main()
    assert stopped.value.code == 75 and not (tmp_path / 'quick_results').exists()


def test_verdicts_follow_the_differences(study):
    assert study.judge([[0.1, 0.12, 0.11], [0.01, 0.02, 0.015]]) == 'met'
    assert study.judge([[0.1, 0.12, 0.11], [0.01, -0.02, 0.015]]) == 'partly'
    assert study.judge([[-0.1, 0.01, 0.02], [0.0, 0.0, 0.0]]) == 'not met'


def test_a_wrong_prediction_has_no_radius(study):
    record = {'labels': [0, 1, 2], 'cohen': {'predict': [0, 2, -1], 'radius': [0.6, 0.9, 0.0]}}
    assert study.average(record, 'cohen') == pytest.approx(0.2)
    assert study.correct_radius(record, 'cohen').tolist() == [0.6, -1.0, -1.0]


@pytest.mark.parametrize(
    'differences, verdict',
    [
        ([[1.0, 1.1, 0.9], [0.2, 0.21, 0.22]], 'met'),
        # 2.6 and 1.5 standard errors.
        ([[1.0, 1.1, 0.9], [0.02, 0.1, 0.1]], 'met'),
        ([[1.0, 1.1, 0.9], [-0.02, 0.1, 0.1]], 'partly'),
        ([[-1.0, -1.1, -0.9], [-0.02, 0.1, 0.1]], 'not met'),
    ],
)
def test_a_gain_counts_from_two_standard_errors_on(study, differences, verdict):
    assert study.judge(differences) == verdict
