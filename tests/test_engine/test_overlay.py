"""Overlays: merging rules, conflicts, hosts that an overlay cannot serve."""

import pytest
from mmengine.config import Config

from mmext.engine import launch, overlay


@pytest.fixture
def fragments(tmp_path, monkeypatch):
    """A folder of overlays in place of the shipped ones; returns a function that adds one."""
    monkeypatch.setattr(overlay, '_folder', lambda: tmp_path)

    def add(name, text):
        (tmp_path / f'{name}.py').write_text(text)

    add('noise', "custom_hooks = [dict(type='mmext.IterSeedHook')]")
    add('ternary', "optim_wrapper = dict(type='mmext.TernGradOptimWrapper', clip_factor=2.5)")
    add('wrap', "model = dict(type='mmext.W', classifier=dict(_host_='classifier'), k=[1])")
    return add


def host(**keys):
    base = dict(
        default_scope='mmpretrain',
        model=dict(type='ImageClassifier', backbone=dict(type='LeNet5')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    )
    return Config({**base, **keys})


def test_dicts_merge_hooks_append_and_the_host_is_untouched(fragments):
    cfg = host(custom_hooks=[dict(type='EMAHook')])
    before = cfg.to_dict()
    result = overlay.apply(cfg, ['noise', 'ternary'])
    assert cfg.to_dict() == before
    assert [hook['type'] for hook in result.custom_hooks] == ['EMAHook', 'mmext.IterSeedHook']
    assert result.optim_wrapper == dict(
        optimizer=dict(type='SGD', lr=0.1), type='mmext.TernGradOptimWrapper', clip_factor=2.5
    )
    assert result.model == cfg.model


def test_a_hook_of_the_host_stays_as_it_is(fragments):
    hook = dict(type='mmext.IterSeedHook', priority=9)
    assert overlay.apply(host(custom_hooks=[hook]), ['noise']).custom_hooks == [hook]


@pytest.mark.parametrize(
    'kind, mapped',
    [
        ('OptimWrapper', 'mmext.TernGradOptimWrapper'),
        ('mmengine.OptimWrapper', 'mmext.TernGradOptimWrapper'),
        ('AmpOptimWrapper', 'mmext.TernGradAmpOptimWrapper'),
    ],
)
def test_the_optimizer_wrapper_is_mapped(fragments, kind, mapped):
    cfg = host(optim_wrapper=dict(type=kind, optimizer=dict(type='SGD', lr=0.1)))
    assert overlay.apply(cfg, ['ternary']).optim_wrapper.type == mapped


def test_a_model_is_wrapped_with_its_preprocessor(fragments):
    cfg = host(data_preprocessor=dict(mean=[1.0]))
    result = overlay.apply(cfg, ['wrap'])
    inner = dict(cfg.model, data_preprocessor=dict(mean=[1.0]))
    assert result.model == dict(type='mmext.W', classifier=inner, k=[1])
    # The Runner gives a top-level preprocessor to the outermost model.
    assert 'data_preprocessor' not in result


def test_conflicts_name_both_and_the_key(fragments):
    fragments('other', "optim_wrapper = dict(type='mmext.OtherOptimWrapper')")
    fragments('louder', "custom_hooks = [dict(type='mmext.IterSeedHook', a=1)]")
    with pytest.raises(ValueError, match=r'ternary and other .* both set optim_wrapper\.type'):
        overlay.apply(host(), ['ternary', 'other'])
    with pytest.raises(ValueError, match=r'noise and louder .*custom_hooks\[mmext.IterSeedHook\]'):
        overlay.apply(host(), ['noise', 'louder'])


@pytest.mark.parametrize(
    'keys, names, named',
    [
        ({}, ['ternari'], 'no overlay .ternari.; choose from noise, ternary, wrap'),
        ({}, ['noise', 'noise'], 'noise is given twice'),
        ({'optim_wrapper': dict(type='ApexOptimWrapper', optimizer={})}, ['ternary'], 'Apex'),
        ({'optim_wrapper': dict(constructor='X', gen={})}, ['ternary'], 'one optimizer'),
        (
            {'default_scope': 'mmdet', 'model': dict(type='FCOS')},
            ['wrap'],
            "wrap needs a classifier of mmpretrain, but the config has model.type='FCOS'",
        ),
        ({'model': None}, ['wrap'], 'no model'),
        ({'model': dict(type='NoSuch')}, ['wrap'], 'NoSuch'),
    ],
)
def test_what_cannot_be_served_is_one_error(fragments, keys, names, named):
    with pytest.raises(ValueError, match=named):
        overlay.apply(host(**keys), names)


def test_options_come_after_overlays(fragments, tmp_path):
    (tmp_path / 'host').mkdir()
    path = tmp_path / 'host' / 'lenet.py'
    path.write_text(host().pretty_text)
    cfg = launch.load_config(str(path), {'optim_wrapper.clip_factor': 3.0}, ['ternary'])
    assert cfg.optim_wrapper.clip_factor == 3.0 and cfg.filename == str(path)


def test_a_path_is_an_overlay_too(fragments, tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text('train_cfg = dict(max_epochs=7)')
    assert overlay.apply(host(), [str(mine)]).train_cfg.max_epochs == 7


def test_the_difference_shows_only_what_changed(fragments):
    cfg = host()
    text = overlay.difference(cfg, overlay.apply(cfg, ['ternary']))
    assert "+    type='mmext.TernGradOptimWrapper')" in text and '-' in text
    assert overlay.difference(cfg, cfg) == ''
