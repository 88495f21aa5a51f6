"""Overlays: the models and data they serve, what they keep for themselves, whom they refuse."""

import pytest
from overlay_hosts import host

from mmext import launch, shipped
from mmext.launch import overlay

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
_needs_ = dict(transform='MultiBranch', fix='take a semi-supervised config, or leave pair out')
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


@pytest.fixture
def completed(fragments, tmp_path, monkeypatch):
    """An overlay with a key of its own, which a function turns into data."""
    (tmp_path / 'finish.py').write_text("""
def finish(cfg, options):
    own = cfg.pop('own')
    if not own:
        return []
    branch = {'type': 'MultiBranch', 'sup': [own['file']]}
    cfg.train_dataloader = {'dataset': {'pipeline': [branch]}}
    return [f'from {own["file"]} with {len(options)} options']
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    fragments(
        'own',
        """
_completes_ = 'finish.finish'
_needs_ = dict(transform='MultiBranch', fix='name a file')
own = dict()
optim_wrapper = dict(clip_grad=dict(max_norm=1))
""",
    )
    monkeypatch.setattr(overlay, 'READ_BY', {'own': 'own'})
    path = tmp_path / 'host.py'
    text = "default_scope = 'mmdet'\ntrain_dataloader = dict(dataset=dict(type='D'))\n"
    path.write_text(text + "optim_wrapper = dict(optimizer=dict(type='SGD', lr=1))\n")
    return str(path)


def test_a_function_completes_a_config_with_its_options_before_needs_are_checked(completed, capsys):
    options = {'own.file': 'x.json', 'optim_wrapper.optimizer.lr': 2, 'train_dataloader.a': 1}
    cfg = launch.load_config(completed, options, ['own'])
    assert 'own' not in cfg and cfg.train_dataloader.dataset.pipeline[0].sup == ['x.json']
    assert capsys.readouterr().err == '--with own: from x.json with 3 options\n'
    noted = launch.identity.of_config(cfg)
    assert noted.chosen == ['--with own: from x.json with 3 options']
    # What went into the data comes back with a resume, other options do not.
    assert noted.options == {'own.file': 'x.json', 'train_dataloader.a': 1}
    with pytest.raises(ValueError, match='own needs MultiBranch .*: name a file'):
        launch.load_config(completed, overlays=['own'])


def test_options_that_only_an_overlay_reads(completed, tmp_path, capsys):
    for names in ([], ['noise']):
        with pytest.raises(ValueError, match='own.file .* by --with own only: add --with own'):
            launch.load_config(completed, {'own.file': 'x.json'}, names)
    (tmp_path / 'key.py').write_text("_base_ = 'host.py'\nown = dict(file='x.json')\n")
    launch.load_config(str(tmp_path / 'key.py'))
    assert capsys.readouterr().err == 'own of the config is read by --with own only\n'


def test_the_keys_that_the_shipped_overlays_read_are_known():
    found = {
        key: name
        for name in shipped.overlays()
        for key, value in overlay.load(name).items()
        if value == {}
    }
    assert found == overlay.READ_BY


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
        (
            'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
            ['cst'],
            'needs MultiBranch.*--labelled FILE.json --unlabelled FOLDER',
        ),
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
    assert {'cst', 'guided_cw', 'mat', 'smoothout', 'terngrad'} <= set(shipped.overlays())
    assert overlay.serves('cst') == 'detector' and overlay.serves('guided_cw') == 'classifier'
    assert overlay.serves('terngrad') is None
