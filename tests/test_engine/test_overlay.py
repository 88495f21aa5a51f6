"""Overlays: merging rules, conflicts, hosts that an overlay cannot serve."""

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook

from mmext.engine import launch, overlay
from mmext.engine.hooks import IterSeedHook


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


SEMI = dict(
    default_scope='mmdet',
    model=dict(
        type='SoftTeacher',
        detector=dict(type='FCOS', data_preprocessor=dict(type='DetDataPreprocessor', mean=[1])),
        data_preprocessor=dict(
            type='MultiBranchDataPreprocessor',
            data_preprocessor=dict(type='DetDataPreprocessor', mean=[1]),
        ),
        semi_train_cfg=dict(freeze_teacher=True),
    ),
    train_dataloader=dict(
        dataset=dict(datasets=[dict(pipeline=[dict(type='mmdet.MultiBranch', sup=[])])])
    ),
    custom_hooks=[dict(type='MeanTeacherHook'), dict(type='EMAHook')],
    val_cfg=dict(type='TeacherStudentValLoop'),
)


@pytest.fixture
def detectors(fragments):
    fragments(
        'pair',
        """
_needs_ = dict(transform='MultiBranch', mend='take a semi-supervised config, or leave pair out')
_replaces_ = ['MeanTeacherHook']
model = dict(
    type='mmext.P',
    detector=dict(_host_='detector'),
    data_preprocessor=dict(type='Multi', data_preprocessor=dict(_host_='data_preprocessor')),
)
custom_hooks = [dict(type='mmext.PairHook')]
val_cfg = dict(type='ValLoop')
""",
    )
    fragments(
        'attack',
        "_host_ = 'classifier'\n"
        "data_preprocessor = dict(batch_augments=dict(augments=dict(type='mmext.A')))",
    )


def test_a_semi_supervised_host_gives_its_detector(detectors):
    result = overlay.apply(host(**SEMI), ['pair'])
    inner = dict(type='DetDataPreprocessor', mean=[1])
    assert result.model == dict(
        type='mmext.P',
        detector=dict(type='FCOS', data_preprocessor=inner),
        data_preprocessor=dict(type='Multi', data_preprocessor=inner),
    )
    assert [hook.type for hook in result.custom_hooks] == ['EMAHook', 'mmext.PairHook']
    assert result.val_cfg == dict(type='ValLoop')
    assert not {'_needs_', '_replaces_', '_host_'} & set(result)


@pytest.mark.parametrize(
    'model, missing',
    [
        (
            {**SEMI['model'], 'data_preprocessor': None},
            'model.data_preprocessor.data_preprocessor',
        ),
        (
            {**SEMI['model'], 'data_preprocessor': dict(type='DetDataPreprocessor')},
            'model.data_preprocessor.data_preprocessor',
        ),
        (dict(type='FCOS'), 'model.data_preprocessor'),
    ],
)
def test_a_detector_without_a_preprocessor_is_refused(detectors, model, missing):
    with pytest.raises(ValueError, match=f'pair needs the prepro.* detector, .* no {missing}: add'):
        overlay.apply(host(**{**SEMI, 'model': model}), ['pair'])


def test_a_plain_detector_with_branches_is_wrapped_and_no_loop_is_added(detectors):
    plain = {**SEMI, 'model': SEMI['model']['detector'], 'val_cfg': None}
    result = overlay.apply(host(**plain), ['pair'])
    inner = dict(type='DetDataPreprocessor', mean=[1])
    assert result.model.detector == SEMI['model']['detector']
    assert result.model.data_preprocessor.data_preprocessor == inner
    # A copy: a change of one must not reach the other.
    assert result.model.data_preprocessor.data_preprocessor is not (
        result.model.detector.data_preprocessor
    )
    assert result.val_cfg is None


def test_training_data_without_the_transform_are_refused(detectors):
    cfg = host(**{**SEMI, 'train_dataloader': dict(dataset=dict(type='CocoDataset'))})
    with pytest.raises(ValueError, match='pair needs MultiBranch in train_dataloader.*leave pair'):
        overlay.apply(cfg, ['pair'])


@pytest.mark.parametrize('inside', [True, False])
def test_the_preprocessor_is_changed_where_the_host_keeps_it(detectors, inside):
    cfg = host()
    (cfg.model if inside else cfg).data_preprocessor = dict(mean=[1.0])
    result = overlay.apply(cfg, ['attack'])
    merged = dict(mean=[1.0], batch_augments=dict(augments=dict(type='mmext.A')))
    place, other = (result.model, result) if inside else (result, result.model)
    assert place.data_preprocessor == merged and 'data_preprocessor' not in other


@pytest.mark.parametrize('names', [['wrap', 'attack'], ['attack', 'wrap']])
def test_a_wrapper_takes_what_others_have_changed_along(detectors, names):
    result = overlay.apply(host(data_preprocessor=dict(mean=[1.0])), names)
    assert result.model.classifier.data_preprocessor == dict(
        mean=[1.0], batch_augments=dict(augments=dict(type='mmext.A'))
    )


@pytest.mark.parametrize(
    'change, named',
    [
        (dict(data_preprocessor=dict(batch_augments=[1])), 'data_preprocessor.batch_augments'),
        (
            dict(model=dict(type='ImageClassifier', train_cfg=dict(augments=[1]))),
            'model.train_cfg.augments',
        ),
    ],
)
def test_batch_augments_of_the_host_are_a_conflict(detectors, change, named):
    with pytest.raises(ValueError, match=f'attack sets .* config has {named}: leave out one'):
        overlay.apply(host(**change), ['attack'])


@pytest.mark.parametrize(
    'change, named',
    [
        (dict(data_preprocessor=dict(batch_augments=[1])), r'data_preprocessor\.batch_augments'),
        (
            dict(model=dict(type='ImageClassifier', data_preprocessor=dict(batch_augments=[1]))),
            r'model\.data_preprocessor\.batch_augments',
        ),
        (
            dict(model=dict(type='ImageClassifier', train_cfg=dict(augments=[1]))),
            r'model\.train_cfg\.augments',
        ),
        (dict(a=dict(b=False)), r'a\.b'),
    ],
)
def test_what_an_overlay_keeps_the_host_may_not_set(fragments, change, named):
    fragments(
        'jealous',
        "_keeps_ = ['data_preprocessor.batch_augments', 'a.b']\n"
        "model = dict(type='W', classifier=dict(_host_='classifier'))",
    )
    assert overlay.apply(host(a=dict(c=1), data_preprocessor=dict(mean=[1.0])), ['jealous'])
    message = f'jealous must have {named} for itself, .* take it out .* or leave jealous out'
    with pytest.raises(ValueError, match=message):
        overlay.apply(host(**change), ['jealous'])


def test_overlays_for_hosts_of_two_kinds_name_both(detectors):
    message = 'pair and attack cannot be combined: pair needs a detector, attack a classifier'
    with pytest.raises(ValueError, match=message):
        overlay.apply(host(**SEMI), ['pair', 'attack'])
    with pytest.raises(ValueError, match='attack needs a classifier of mmpretrain.*SoftTeacher'):
        overlay.apply(host(**SEMI), ['attack'])


def test_what_an_overlay_keeps_no_other_may_set(fragments, detectors):
    fragments('jealous', "_keeps_ = ['data_preprocessor.batch_augments']\na = dict(b=1)")
    fragments('modest', "_keeps_ = ['data_preprocessor.batch', 'a.b']\na = dict(b=1)")
    message = 'attack and jealous .* attack sets data_preprocessor.batch_augments, which jealous'
    for names in (['attack', 'jealous'], ['jealous', 'attack']):
        with pytest.raises(ValueError, match=message):
            overlay.apply(host(), names)
    # The whole of which it is a part, and a part of which it has others itself.
    fragments('blunt', 'data_preprocessor = None')
    fragments('sharing', "_keeps_ = ['c']\nc = dict(mine=1)")
    fragments('sharer', 'c = dict(yours=1)')
    for names in (['jealous', 'blunt'], ['sharing', 'sharer']):
        with pytest.raises(ValueError, match=f'{names[1]} sets .*, which {names[0]} must have'):
            overlay.apply(host(), names)
    # Neither its own keys nor longer names.
    assert overlay.apply(host(), ['attack', 'modest']).a.b == 1


def test_what_an_overlay_serves(detectors):
    served = {name: overlay.serves(name) for name in ('noise', 'wrap', 'pair', 'attack')}
    assert served == dict(noise=None, wrap='classifier', pair='detector', attack='classifier')


def test_the_model_of_another_plugin_is_not_wrapped(fragments):
    model = dict(type='mmext.MATClassifier', classifier=dict(type='ImageClassifier'))
    with pytest.raises(ValueError, match="wrap serves a class.*'mmext.MATClassifier'.*leave wrap"):
        overlay.apply(host(model=model), ['wrap'])


def test_the_model_of_another_plugin_is_not_changed_from_outside(detectors):
    with pytest.raises(ValueError, match="attack serves a class.*another plugin's: leave attack"):
        overlay.apply(host(model=dict(type='mmext.MATClassifier')), ['attack'])


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


SOFT_TEACHER = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'


def test_the_shipped_overlay_of_cst_takes_a_mean_teacher_of_mmdet():
    cfg = launch.load_config(SOFT_TEACHER, overlays=['cst', 'terngrad', 'smoothout'])
    assert cfg.model.type == 'mmext.CycleSelfTraining' and cfg.model.detector.type == 'FasterRCNN'
    kinds = [hook.type for hook in cfg.custom_hooks]
    assert kinds == ['mmext.SmoothOutHook', 'mmext.CycleTeacherHook',
                     'mmext.DistributionConsistencyHook']  # fmt: skip
    assert cfg.val_cfg.type == 'ValLoop'
    cfg.model.detector.backbone.init_cfg = None
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmdet')
    assert len(MODELS.build(cfg.model).students) == 2


@pytest.mark.parametrize(
    'config, names, message',
    [
        ('mmpretrain::lenet/lenet5_mnist.py', ['cst'], 'cst needs a detector of mmdet.*Image'),
        ('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', ['cst'], 'needs MultiBranch'),
        ('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', ['guided_cw'], 'needs a classifier'),
        (
            'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
            ['randomized_smoothing'],
            r'randomized_smoothing must have model\.train_cfg\.augments for itself',
        ),
        (SOFT_TEACHER, ['cst', 'mat'], 'cst and mat cannot be combined'),
        ('mmext::mat/mat-mixed_lenet_digits.py', ['randomized_smoothing'], "'mmext.MATClassifier'"),
        ('mmext::cst/cst_fcos_r18_digits.py', ['cst'], "'mmext.CycleSelfTraining'"),
        ('mmext::terngrad/terngrad_lenet_digits.py', ['terngrad'], 'TernGradOptimWrapper'),
    ],
)
def test_shipped_overlays_refuse_hosts_they_cannot_serve(config, names, message):
    with pytest.raises(ValueError, match=message):
        launch.load_config(config, overlays=names)


def test_every_overlay_has_a_host():
    assert {'cst', 'guided_cw', 'mat', 'smoothout', 'terngrad'} <= set(overlay.available())
    assert overlay.serves('cst') == 'detector' and overlay.serves('guided_cw') == 'classifier'
    assert overlay.serves('terngrad') is None
