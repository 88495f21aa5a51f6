"""Pairs: who is the host, and what counts as a refusal."""

import pytest

from mmext.testing import (
    ConformanceError,
    PluginSettings,
    check_pair,
    check_refusal,
    hosts,
    pair_settings,
)

SMOOTHOUT = PluginSettings(
    'smoothout', {'mmext.SmoothOutHook': 'HOOKS'}, hosts.classifier, 'smoothout'
)
MAT = PluginSettings('mat', {'mmext.MATClassifier': 'MODELS'}, hosts.classifier, 'mat')
NAME = 'randomized_smoothing'
SMOOTHED = PluginSettings(NAME, {'mmext.ADREClassifier': 'MODELS'}, hosts.classifier, NAME)


def own(name):
    def host(data):
        cfg = hosts.classifier(data)
        cfg.custom_hooks = [dict(type='mmext.IterSeedHook')]
        return cfg

    return PluginSettings(name, {'mmext.IterSeedHook': 'HOOKS'}, host)


def elsewhere(data):
    raise AssertionError('the host of the plugin that serves any model')


def test_the_choosier_plugin_brings_the_host(tmp_path):
    anywhere = PluginSettings('smoothout', SMOOTHOUT.types, elsewhere, 'smoothout')
    for pair in ((MAT, anywhere), (anywhere, MAT), (own('own'), anywhere)):
        cfg = pair_settings(*pair).config(tmp_path)
        assert any(hook.type == 'mmext.SmoothOutHook' for hook in cfg.custom_hooks)
    seeded = PluginSettings('mat', MAT.types, hosts.classifier, 'mat', host_draws='dropout')
    assert pair_settings(anywhere, seeded).host_draws == 'dropout'
    assert set(pair_settings(MAT, anywhere).types) == {'mmext.MATClassifier', 'mmext.SmoothOutHook'}


def test_both_plugins_are_adjusted(tmp_path):
    def note(name):
        return lambda cfg: cfg.update(noted=[*cfg.get('noted', []), name])

    one = PluginSettings('mat', MAT.types, hosts.classifier, 'mat', adjust=note('mat'))
    other = PluginSettings('smoothout', {}, hosts.classifier, 'smoothout', adjust=note('smoothout'))
    assert pair_settings(one, other).config(tmp_path).noted == ['mat', 'smoothout']


def test_a_refusal_names_both_and_the_mend(tmp_path):
    text = check_refusal(MAT, SMOOTHED, tmp_path)
    assert 'mat and randomized_smoothing cannot be combined: both set model.type; leave' in text
    with pytest.raises(ConformanceError, match=r'mat \+ smoothout: refusal: no error'):
        check_refusal(MAT, SMOOTHOUT, tmp_path)
    assert 'a and b cannot be combined' in check_refusal(own('a'), own('b'), tmp_path)


def test_a_pair_that_does_not_train_is_caught(tmp_path):
    def break_it(cfg):
        cfg.optim_wrapper.optimizer.lr = float('nan')

    broken = PluginSettings('mat', MAT.types, hosts.classifier, 'mat', adjust=break_it)
    with pytest.raises(ConformanceError, match=r'mat \+ smoothout: trains'):
        check_pair(broken, SMOOTHOUT, tmp_path)
