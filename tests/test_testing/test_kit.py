"""The kit catches what it is there to catch, and lets a sound plugin pass."""

import broken_plugins  # noqa: F401  (registers the broken ones)
import pytest
import torch

from mmext.testing import (
    CHECKS,
    ConformanceError,
    PluginSettings,
    RankRuns,
    Trial,
    check_plugin,
    check_ranks,
    check_ranks_resume,
    hosts,
)

#: Broken plugin -> check that must catch it, and a word of what it must say.
BROKEN = [
    ('RaisesOnBuild', 'builds', 'no such luck'),
    ('MakesNaN', 'trains', 'not finite|losses'),
    ('HoldsUpdates', 'trains', 'no weight has changed'),
    ('TakesAnObject', 'config', 'cannot be written|differs'),
    ('MovesEveryIteration', 'accumulation', 'iteration 1 only accumulates.*layers.0.weight'),
    ('HoldsUpdates', 'accumulation', 'iteration 2 should update'),
    ('NeedsFloat32', 'amp', 'BFloat16|Half'),
    ('CountsByItself', 'resume', r'state_dict\.backbone\.layers\.0\.weight: \d+ of 100 elements'),
    ('DrawsFromItsOwnGenerator', 'resume', 'state_dict'),
    ('DrawsFromTheGlobalGenerator', 'resume', 'state_dict'),
    ('NeverDetaches', 'removal', 'class of optim_wrapper: PhasedOptimWrapper'),
    ('LeavesAForwardHook', 'removal', 'model.backbone._forward_hooks: 1'),
    ('ReplacesForward', 'removal', 'model.backbone.forward: replaced'),
    ('LeavesAGradientHook', 'removal', 'layers.0.weight._backward_hooks: 1'),
    ('SavesAnObject', 'checkpoint', r"\['opaque'\]\['things'\]\[1\] is a _Opaque"),
    ('TellsTheHubAnObject', 'checkpoint', r"\['runtime_info'\]\['opaque'\] is a _Opaque"),
    ('TakesAnything', 'arguments', 'TakesAnything takes no_such_argument=1 without a word'),
    ('HidesTheArgument', 'arguments', 'does not name the argument'),
]


def settings(name, **arguments):
    """A hook of broken_plugins on the small classifier."""

    def host(data):
        cfg = hosts.classifier(data)
        cfg.custom_imports = dict(imports=['broken_plugins'])
        cfg.custom_hooks = [dict(type=name, **arguments)]
        return cfg

    return PluginSettings(name, {name: 'HOOKS'}, host)


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    return Trial(settings('Sound'), tmp_path_factory.mktemp('sound'))


ON_ONE_RANK = [name for name in CHECKS if not name.startswith('ranks')]


@pytest.mark.parametrize('check', ON_ONE_RANK)
def test_a_sound_plugin_passes(sound, check):
    CHECKS[check](sound)


@pytest.mark.parametrize('name, check, said', BROKEN)
def test_a_broken_plugin_is_caught(name, check, said, tmp_path):
    arguments = {'thing': object()} if name == 'TakesAnObject' else {}
    with pytest.raises(ConformanceError, match=f'(?s)^{name}: {check}: .*({said}).*\nfix: '):
        CHECKS[check](Trial(settings(name, **arguments), tmp_path))


def test_the_seeds_of_a_config_do_not_hide_global_draws(tmp_path):
    """But those of a host that says so resume."""

    def host(data):
        cfg = broken.host(data)
        cfg.custom_hooks.append(dict(type='mmext.IterSeedHook'))
        return cfg

    broken = settings('DrawsFromTheGlobalGenerator')
    seeded = PluginSettings('seeded', broken.types, host)
    with pytest.raises(ConformanceError, match='(?s)seeded: resume: .*host_draws'):
        CHECKS['resume'](Trial(seeded, tmp_path / 'seeded'))
    excused = PluginSettings('excused', broken.types, broken.host, host_draws='a test')
    CHECKS['resume'](Trial(excused, tmp_path / 'excused'))


def test_an_unregistered_type_is_caught(tmp_path):
    missing = PluginSettings('missing', {'mmext.NoSuchHook': 'HOOKS'}, hosts.classifier)
    with pytest.raises(ConformanceError, match="no 'mmext.NoSuchHook' under default_scope=None"):
        CHECKS['resolves'](missing)
    nowhere = PluginSettings('nowhere', {'mmext.SmoothOutHook': 'SMOOTHERS'}, hosts.classifier)
    with pytest.raises(ConformanceError, match="registry 'SMOOTHERS'"):
        CHECKS['resolves'](nowhere)


def test_a_plugin_that_its_config_never_uses_is_caught(tmp_path):
    unused = PluginSettings('unused', {'mmext.SmoothOutHook': 'HOOKS'}, hosts.classifier)
    with pytest.raises(ConformanceError, match='never uses mmext.SmoothOutHook'):
        CHECKS['builds'](Trial(unused, tmp_path))


def test_ranks_are_compared(tmp_path):
    """One launch of two processes for all of them."""
    runs = RankRuns(tmp_path)
    names = ('Sound', 'MovesRanksApart', 'KeepsARankToItself', 'FailsOnRanks')
    trials = {name: Trial(settings(name), tmp_path / name) for name in names}
    for trial in trials.values():
        runs.add(trial)
    check_ranks(trials['Sound'], runs)
    check_ranks_resume(trials['Sound'], runs)
    check_ranks(trials['KeepsARankToItself'], runs)
    with pytest.raises(ConformanceError, match='differ on rank 0: backbone.layers.0.weight: 100'):
        check_ranks_resume(trials['KeepsARankToItself'], runs)
    with pytest.raises(ConformanceError, match='ranks differ: backbone.layers.0.weight: 100 of'):
        check_ranks(trials['MovesRanksApart'], runs)
    with pytest.raises(ConformanceError, match="(?s)FailsOnRanks: ranks: .*'backbone'"):
        check_ranks(trials['FailsOnRanks'], runs)


def test_a_failure_on_ranks_spares_the_others(tmp_path, monkeypatch):
    """The plugins behind the one that ended the processes get new ones."""
    launches = []

    def launch(out, count):
        texts = [(out / str(index) / 'config.py').read_text() for index in range(count)]
        launches.append(count)
        for index, text in enumerate(texts):
            if 'FailsOnRanks' in text:
                return 'rank 1: it failed'
            for rank in range(2):
                torch.save({'rank': rank}, out / str(index) / f'rank{rank}.pth')
        return None

    monkeypatch.setattr('mmext.testing.ranks._launch', launch)
    runs = RankRuns(tmp_path)
    broken = settings('TakesAnObject')
    broken = PluginSettings('unmade', broken.types, lambda data: 1 / 0)
    rows = [settings('Sound'), settings('FailsOnRanks'), broken, settings('CountsByItself')]
    trials = [Trial(row, tmp_path / str(index)) for index, row in enumerate(rows)]
    for trial in trials:
        runs.add(trial)
    good = [{'rank': 0}, {'rank': 1}]
    assert runs.result(trials[3]) == good and runs.result(trials[0]) == good
    assert runs.result(trials[1]) == 'rank 1: it failed'
    assert 'ZeroDivisionError' in runs.result(trials[2])
    assert launches == [3, 1]


def test_check_plugin_reports_and_takes_names(tmp_path):
    found = check_plugin(settings('Sound'), ['resolves', 'builds'], tmp_path)
    assert found == {'resolves': 'passed', 'builds': 'passed'}
    excused = PluginSettings(
        'excused', {'mmext.No': 'HOOKS'}, hosts.classifier, skip={'resolves': 'not yet'}
    )
    assert check_plugin(excused, ['resolves']) == {'resolves': 'skipped: not yet'}
    with pytest.raises(ValueError, match="unknown checks .'resume_'.*resume"):
        check_plugin(settings('Sound'), ['resume_'])
    with pytest.raises(ConformanceError, match='RaisesOnBuild: builds'):
        check_plugin(settings('RaisesOnBuild'), ['builds'], tmp_path)
