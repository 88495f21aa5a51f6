"""Overlays: how they merge with a host and with each other, and conflicts of keys."""

import pytest
from mmengine.hooks import EMAHook
from overlay_hosts import host

from mmext import launch
from mmext.engine.hooks import IterSeedHook
from mmext.launch import overlay


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


@pytest.mark.parametrize('kind', ['IterSeedHook', IterSeedHook])
def test_a_hook_of_the_host_is_known_however_it_is_named(fragments, kind):
    hook = dict(type=kind, priority=9)
    result = overlay.apply(host(custom_hooks=[hook, dict(type=EMAHook)]), ['noise'])
    assert result.custom_hooks == [hook, dict(type=EMAHook)]


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


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', 'mmext.TernGradAmpOptimWrapper'])
@pytest.mark.parametrize('present', ['OptimWrapper', 'AmpOptimWrapper'])
def test_a_wrapper_for_mixed_precision_stays_one(fragments, kind, present):
    fragments('mixed', f'optim_wrapper = dict(type={kind!r})')
    cfg = host(optim_wrapper=dict(type=present, optimizer=dict(type='SGD', lr=0.1)))
    assert overlay.apply(cfg, ['mixed']).optim_wrapper.type == kind


def test_none_replaces_the_optimizer_wrapper(fragments):
    fragments('none', 'optim_wrapper = None')
    assert overlay.apply(host(), ['none']).optim_wrapper is None


def test_each_of_several_optimizer_wrappers_is_mapped(fragments):
    members = dict(
        generator=dict(optimizer=dict(type='Adam')),
        discriminator=dict(type='AmpOptimWrapper', optimizer=dict(type='SGD')),
    )
    cfg = host(optim_wrapper=dict(constructor='X', **members))
    result = overlay.apply(cfg, ['ternary']).optim_wrapper
    assert result.constructor == 'X' and 'type' not in result and 'clip_factor' not in result
    assert result.generator == dict(
        optimizer=dict(type='Adam'), type='mmext.TernGradOptimWrapper', clip_factor=2.5
    )
    assert result.discriminator.type == 'mmext.TernGradAmpOptimWrapper'
    assert result.discriminator.clip_factor == 2.5


def test_a_model_is_wrapped_with_its_preprocessor(fragments):
    cfg = host(data_preprocessor=dict(mean=[1.0]))
    result = overlay.apply(cfg, ['wrap'])
    inner = dict(cfg.model, data_preprocessor=dict(mean=[1.0]))
    assert result.model == dict(type='mmext.W', classifier=inner, k=[1])
    # The Runner gives a top-level preprocessor to the outermost model.
    assert 'data_preprocessor' not in result


def test_a_wrapped_model_has_no_trace_of_delete(fragments):
    fragments('own', "model = dict(_delete_=True, type='W', classifier=dict(_host_='classifier'))")
    assert overlay.apply(host(), ['own']).model == dict(type='W', classifier=host().model)


def test_imports_are_those_of_host_and_overlays(fragments):
    fragments('one', "custom_imports = dict(imports=['json', 'os'], allow_failed_imports=True)")
    fragments('two', "custom_imports = dict(imports='csv', allow_failed_imports=True)")
    strict = host(custom_imports=dict(imports=['os', 'abc']))
    assert overlay.apply(strict, ['one', 'two']).custom_imports == dict(
        imports=['os', 'abc', 'json', 'csv'], allow_failed_imports=False
    )
    assert overlay.apply(host(), ['one', 'two']).custom_imports == dict(
        imports=['json', 'os', 'csv'], allow_failed_imports=True
    )
    assert overlay.apply(strict, ['noise']).custom_imports == strict.custom_imports


def test_conflicts_name_both_and_the_key(fragments):
    fragments('other', "optim_wrapper = dict(type='mmext.OtherOptimWrapper')")
    fragments('louder', "custom_hooks = [dict(type='mmext.IterSeedHook', a=1)]")
    with pytest.raises(ValueError, match=r'ternary and other .* both set optim_wrapper\.type'):
        overlay.apply(host(), ['ternary', 'other'])
    with pytest.raises(ValueError, match=r'noise and louder .*custom_hooks\[IterSeedHook\]'):
        overlay.apply(host(), ['noise', 'louder'])


def test_a_key_and_one_inside_it_are_a_conflict_in_any_order(fragments):
    fragments('free', 'optim_wrapper = dict(clip_grad=None)')
    fragments('clip', 'optim_wrapper = dict(clip_grad=dict(max_norm=1.0))')
    fragments('near', 'optim_wrapper = dict(clip_grad_norm=1.0, accumulative_counts=2)')
    for names in (['free', 'clip'], ['clip', 'free']):
        message = rf'{" and ".join(names)} .* both set optim_wrapper\.clip_grad; leave'
        with pytest.raises(ValueError, match=message):
            overlay.apply(host(), names)
    # Names that only begin alike.
    assert overlay.apply(host(), ['clip', 'near']).optim_wrapper.clip_grad.max_norm == 1.0


def test_an_overlay_may_add_several_hooks_of_one_type(fragments):
    fragments('twice', "custom_hooks = [dict(type='EMAHook'), dict(type='EMAHook', momentum=0.1)]")
    assert len(overlay.apply(host(), ['twice', 'noise']).custom_hooks) == 3


@pytest.mark.parametrize(
    'keys, names, named',
    [
        ({}, ['ternari'], 'no overlay .ternari.; choose from noise, ternary, wrap'),
        ({}, ['noise', 'noise'], 'noise is given twice'),
        ({}, 'ternary', "names='ternary' must be a list of overlays"),
        ({'optim_wrapper': dict(type='ApexOptimWrapper', optimizer={})}, ['ternary'], 'Apex'),
        ({'optim_wrapper': dict(constructor='X', gen={})}, ['ternary'], 'config with an optimizer'),
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


@pytest.mark.parametrize(
    'text, named',
    [
        ('optim_wrapper = dict(', r'odd\.py cannot be loaded'),
        ("custom_imports = dict(imports=['no_such_module'])", r'odd\.py cannot be loaded'),
        ('custom_hooks = None', 'overlay odd: custom_hooks=None must be a list'),
        ("custom_hooks = [dict(priority='LOW')]", 'overlay odd: .* with a type each'),
        ('param_scheduler = dict(gamma=1)', 'odd does not fit the config: list indices'),
    ],
)
def test_a_fragment_that_is_none_is_one_error(fragments, text, named):
    fragments('odd', text)
    with pytest.raises(ValueError, match=named):
        overlay.apply(host(param_scheduler=[dict(type='MultiStepLR')]), ['odd'])


@pytest.fixture
def write(fragments, tmp_path):
    """Function that writes a host into a file."""

    def dump(cfg):
        (tmp_path / 'host').mkdir()
        path = tmp_path / 'host' / 'lenet.py'
        path.write_text(cfg.pretty_text)
        return str(path)

    return dump


def test_options_come_after_overlays(write):
    path = write(host())
    options = {
        'optim_wrapper.clip_factor': 3.0,
        'optim_wrapper.optimizer.type': 'Adam',
        'optim_wrapper.type': 'mmext.TernGradAmpOptimWrapper',
        'model.classifier.type': 'Other',
        'custom_hooks.0.priority': 9,
    }
    cfg = launch.load_config(path, options, ['ternary', 'wrap', 'noise'])
    assert cfg.filename == path
    assert cfg.optim_wrapper == dict(
        optimizer=dict(type='Adam', lr=0.1), type=options['optim_wrapper.type'], clip_factor=3.0
    )
    assert cfg.model.type == 'mmext.W' and cfg.model.classifier.type == 'Other'
    assert cfg.custom_hooks == [dict(type='mmext.IterSeedHook', priority=9)]
    amp = {'optim_wrapper.type': 'AmpOptimWrapper', 'model.type': 'Other'}
    assert launch.load_config(path, amp, ['noise']).model.type == 'Other'


TERNARY = r"would replace 'mmext\.TernGradOptimWrapper', which --with ternary sets: leave"


@pytest.mark.parametrize(
    'options, named',
    [
        ({'optim_wrapper.type': 'AmpOptimWrapper'}, r"optim_wrapper\.type='AmpOptim.*" + TERNARY),
        (
            {'optim_wrapper.type': 'AmpOptimWrapper'},
            r'mixed precision write optim_wrapper\.type=mmext\.TernGradAmpOptimWrapper$',
        ),
        ({'optim_wrapper': None}, r'optim_wrapper\.type=None ' + TERNARY),
        ({'model.type': 'Other'}, r"model\.type='Other' .* 'mmext\.W', .*with wrap .* of them$"),
        ({'model': None}, r'model\.type=None would replace'),
    ],
)
def test_options_do_not_replace_what_an_overlay_is(write, options, named):
    with pytest.raises(ValueError, match=named):
        launch.load_config(write(host()), options, ['ternary', 'wrap'])


def test_options_do_not_replace_one_of_several_wrappers(write):
    members = dict(generator=dict(optimizer=dict(type='Adam')), critic=dict(optimizer={}))
    path = write(host(optim_wrapper=dict(constructor='X', **members)))
    with pytest.raises(ValueError, match=r"optim_wrapper\.critic\.type='Ap.* --with ternary sets"):
        launch.load_config(path, {'optim_wrapper.critic.type': 'ApexOptimWrapper'}, ['ternary'])
    cfg = launch.load_config(path, {'optim_wrapper.constructor': 'Y'}, ['ternary'])
    assert cfg.optim_wrapper.constructor == 'Y'


def test_a_path_is_an_overlay_too(fragments, tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text('train_cfg = dict(max_epochs=7)')
    assert overlay.apply(host(), [str(mine)]).train_cfg.max_epochs == 7


def test_the_difference_shows_only_what_changed(fragments):
    cfg = host()
    text = overlay.difference(cfg, overlay.apply(cfg, ['ternary']))
    assert "+    type='mmext.TernGradOptimWrapper')" in text and '-' in text
    assert overlay.difference(cfg, cfg) == ''
