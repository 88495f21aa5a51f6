"""``--with cst`` on plain detectors and images of one's own."""

import json
import shutil
import uuid
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmext import launch
from mmext.commands.main import main
from mmext.launch import identity
from mmext.plugins.cst.own_data import add_own_data
from mmext.testing.trial import first_difference, plain_text

ROOT = Path(__file__).resolve().parents[3]
# A project of MMDetection alone: epochs, its own ten classes, images of 80 pixels.
HOST = str(ROOT / 'projects/dropin/mmdet_project/retinanet_r18_digits.py')
CLASSES = ('bolt', 'nut', 'nail')
# Small networks that build at once; what they are made of stays.
LIGHT = {'model.detector.backbone.depth': 18, 'model.detector.backbone.init_cfg': None}
# One that also runs.
LIGHT_FPN = {**LIGHT, 'model.detector.neck.in_channels': [64, 128, 256, 512]}


@pytest.fixture(scope='module', autouse=True)
def readable_configs(unformatted_configs):
    """Without formatting, but as files that can be read again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(plain_text))
        init_default_scope('mmdet')
        yield


@pytest.fixture(scope='module')
def own(scenes, tmp_path_factory):
    """6 labelled images with their file, 18 unlabelled ones in folders, 6 to evaluate on."""
    folder = tmp_path_factory.mktemp('own')
    for split, part in (('mine', 'semi/instances_train.1@25'), ('val', 'instances_val')):
        content = json.loads((scenes / f'annotations/{part}.json').read_text())
        content['categories'] = [{'id': i, 'name': name} for i, name in enumerate(CLASSES)]
        for box in content['annotations']:
            box['category_id'] %= 3
        (folder / f'{split}.json').write_text(json.dumps(content))
        source = scenes / ('train' if split == 'mine' else split)
        (folder / 'images').mkdir(exist_ok=True)
        (folder / 'val').mkdir(exist_ok=True)
        for image in content['images']:
            target = folder / ('images' if split == 'mine' else 'val') / image['file_name']
            shutil.copy(source / image['file_name'], target)
    labelled = {path.name for path in (folder / 'images').iterdir()}
    for number, path in enumerate(sorted((scenes / 'train').iterdir())):
        if path.name not in labelled:
            target = folder / f'photos/day {number % 2}' / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    # A folder of all images has the labelled ones too.
    (folder / 'photos/labelled').symlink_to(folder / 'images')
    return folder


def data(own, **others):
    return {'semi.labelled': f'{own}/mine.json', 'semi.unlabelled': f'{own}/photos', **others}


def load(own, config=HOST, **options):
    return launch.load_config(config, data(own, **options), ['cst'])


def flags(own, *more):
    return ['--labelled', f'{own}/mine.json', '--unlabelled', f'{own}/photos', *more]


def options(**others):
    """Of a run of 4 iterations whose teachers teach from the third on."""
    quick = {
        'train_cfg.max_iters': 4,
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'default_hooks.logger.interval': 1,
        'log_level': 'WARNING',
        'model.semi_train_cfg.score_thr': 0.002,
        'model.semi_train_cfg.ignore_score_thr': None,
        'model.detector.test_cfg.score_thr': 1e-4,
        'experiment_name': uuid.uuid4().hex,
    }
    return ['--cfg-options', *(f'{key}={value}' for key, value in {**quick, **others}.items())]


@pytest.fixture(scope='module')
def whole(own, tmp_path_factory):
    """Work dir of an uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole')
    main([
        'train',
        HOST, '--with', 'cst', *flags(own, '--val', f'{own}/val.json'), '--work-dir', str(folder),
        *options(),
    ])  # fmt: skip
    return folder


def scalars(folder):
    (file,) = folder.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_plain_detector_trains_with_teachers_on_labels_and_a_folder(whole, own):
    train = [line for line in scalars(whole) if 'student1_sup_loss_cls' in line]
    assert [line['step'] for line in train] == [1, 2, 3, 4]
    assert [line['student2_unsup_loss_cls'] > 0 for line in train if line['step'] > 2] == [True] * 2
    assert not any('student1_unsup_loss_cls' in line for line in train[:2])
    assert any('coco/bbox_mAP' in line for line in scalars(whole))
    cfg = Config.fromfile(whole / 'retinanet_r18_digits.py')
    assert 'semi' not in cfg
    first, second, free = cfg.train_dataloader.dataset.datasets
    assert first.ann_file == second.ann_file == f'{own}/mine.json'
    assert first.data_prefix.img == f'{own}/images' and free.data_prefix.img == f'{own}/photos'
    # 6 labelled images of the 24 below photos are left out.
    assert any('unlabelled: 18 images' in line for line in cfg.mmext_plugins.chosen)


def test_resume_without_any_flag_is_the_same_run(whole, tmp_path, capsys):
    shutil.copy(whole / 'iter_2.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    # The name of the loggers is no part of the run; the process has it already.
    name = f'experiment_name={uuid.uuid4().hex}'
    main(['train', HOST, '--resume', '--work-dir', str(tmp_path), '--cfg-options', name])
    assert 'semi.labelled' in capsys.readouterr().err
    one, other = (
        torch.load(folder / 'iter_4.pth', weights_only=False) for folder in (whole, tmp_path)
    )
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert first_difference(one[part], other[part]) is None
    before = torch.load(whole / 'iter_2.pth', weights_only=False)
    assert first_difference(before['state_dict'], one['state_dict']) is not None
    assert identity.of_checkpoint(str(tmp_path / 'iter_4.pth')).options['semi.val']


def test_the_config_of_the_work_dir_needs_no_file_of_the_data_to_load(whole, tmp_path):
    text = (whole / 'retinanet_r18_digits.py').read_text()
    (tmp_path / 'saved.py').write_text(text.replace('mine.json', 'gone.json'))
    cfg = launch.load_config(str(tmp_path / 'saved.py'), checkpoint=str(whole / 'iter_4.pth'))
    assert cfg.model.type == 'mmext.CycleSelfTraining'
    assert cfg.train_dataloader.dataset.datasets[0].ann_file.endswith('gone.json')


def test_keys_of_a_config_do_the_same_as_flags(own, tmp_path):
    text = (
        f"_base_ = '{HOST}'\nsemi = dict(labelled='{own}/mine.json', unlabelled='{own}/photos')\n"
    )
    (tmp_path / 'mine.py').write_text(text)
    by_key = launch.load_config(str(tmp_path / 'mine.py'), overlays=['cst'])
    by_flag = load(own)
    for part in ('model', 'train_dataloader', 'train_cfg', 'param_scheduler', 'custom_hooks'):
        assert by_key[part] == by_flag[part]
    # A part of them from the command line.
    changed = launch.load_config(str(tmp_path / 'mine.py'), {'semi.batch': [1, 3]}, ['cst'])
    assert changed.train_dataloader.batch_size == 5


def test_of_the_detector_nothing_but_the_classes_changes(own):
    host = Config.fromfile(HOST).model
    host.bbox_head.num_classes = 3
    assert load(own).model.detector == host


def test_a_key_that_nothing_reads_is_said(own, tmp_path, capsys):
    (tmp_path / 'mine.py').write_text(f"_base_ = '{HOST}'\nsemi = dict(labelled='x.json')\n")
    launch.load_config(str(tmp_path / 'mine.py'))
    assert 'semi of the config is read by --with cst only' in capsys.readouterr().err


def test_samples_of_all_branches(own):
    cfg = load(own, **{'semi.batch': [1, 1]})
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.cumulative_sizes == [6, 12, 30]
    assert dataset.metainfo['classes'] == CLASSES
    for index, branch in ((0, 'sup_student1'), (6, 'sup_student2')):
        sample = dataset[index]['data_samples']
        assert {key for key, value in sample.items() if value is not None} == {branch}
        assert len(sample[branch].gt_instances) > 0
        assert set(sample[branch].gt_instances.labels.tolist()) <= {0, 1, 2}
    views = dataset[12]
    found = {key for key, value in views['inputs'].items() if value is not None}
    assert found == {'unsup_teacher', 'unsup_student1', 'unsup_student2'}
    for branch in found:
        # The size of the host's test images, where the boxes of teachers must be found again.
        assert views['inputs'][branch].shape == (3, 80, 80)
        assert views['data_samples'][branch].homography_matrix.shape == (3, 3)
        assert len(views['data_samples'][branch].gt_instances) == 0
    one, other = (views['inputs'][f'unsup_student{i}'] for i in (1, 2))
    assert not torch.equal(one, other)


def test_the_batch_is_that_of_the_host_for_each_student_and_the_rate_follows(own):
    cfg = load(own, auto_scale_lr={'base_batch_size': 16})
    assert cfg.train_dataloader.batch_size == cfg.train_dataloader.sampler.batch_size == 24
    assert cfg.train_dataloader.sampler.source_ratio == [8, 8, 8]
    assert cfg.auto_scale_lr.base_batch_size == 48
    cfg = load(own, **{'semi.batch': [2, 6], 'auto_scale_lr': {'base_batch_size': 16}})
    assert cfg.train_dataloader.sampler.source_ratio == [2, 2, 6]
    assert cfg.auto_scale_lr.base_batch_size == 80
    # 24 images, 8 a step, 12 epochs: the length does not depend on the split.
    assert cfg.train_cfg.max_iters == 36


@pytest.mark.parametrize(
    'config, heads',
    [
        ('atss/atss_r50_fpn_1x_coco.py', ['bbox_head']),
        ('retinanet/retinanet_r50_fpn_1x_coco.py', ['bbox_head']),
        ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', ['bbox_head']),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', ['roi_head.bbox_head']),
        (
            'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
            [f'roi_head.bbox_head.{i}' for i in range(3)],
        ),
    ],
)
def test_stock_detectors_get_the_classes_of_the_file(own, config, heads, monkeypatch):
    from mmdet.registry import MODELS

    cfg = load(own, f'mmdet::{config}', **LIGHT)
    for path in heads:
        head = cfg.model.detector
        for key in path.split('.'):
            head = head[int(key) if key.isdigit() else key]
        assert head.num_classes == 3
    assert 'num_classes' not in cfg.model.detector.get('rpn_head', {})
    assert len(cfg.train_dataloader.dataset.datasets) == 3
    init_default_scope('mmdet')
    assert len(MODELS.build(cfg.model).students) == 2
    views = DATASETS.build(cfg.train_dataloader.dataset.datasets[2])[0]
    # (1333, 800) with the ratio kept, of square images.
    assert views['inputs']['unsup_student1'].shape == (3, 800, 800)


def test_classes_are_set_everywhere_but_not_in_what_has_others():
    from mmext.plugins.cst.own_model import set_num_classes

    detector = dict(
        type='D',
        backbone=dict(num_classes=80),
        rpn_head=dict(num_classes=80),
        roi_head=dict(
            bbox_head=[dict(num_classes=80, loss_cls=dict(num_classes=80)), dict(type='Default')],
            semantic_head=dict(num_classes=183),
            other_head=dict(num_classes=80),
        ),
    )
    told = set_num_classes(dict(type='W', detector=detector), 5)
    assert told == 'num_classes: 80 -> 5 in bbox_head, loss_cls, other_head'
    first, second = detector['roi_head']['bbox_head']
    assert first == dict(num_classes=5, loss_cls=dict(num_classes=5))
    assert second['num_classes'] == detector['roi_head']['other_head']['num_classes'] == 5
    assert detector['roi_head']['semantic_head']['num_classes'] == 183
    assert detector['backbone']['num_classes'] == detector['rpn_head']['num_classes'] == 80
    with pytest.raises(ValueError, match='the SOLO of the config has no bbox_head'):
        set_num_classes(dict(type='SOLO', mask_head=dict(num_classes=80)), 5)


def test_thresholds_fit_the_scores_and_what_the_command_sets_stays(own, capsys):
    atss = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
    cfg = load(own, atss, **LIGHT_FPN).model.semi_train_cfg
    assert (cfg.score_thr, cfg.ignore_score_thr, cfg.score_power) == (0.5, 0.3, 0.5)
    given = {'model.semi_train_cfg.score_thr': 0.7, 'model.semi_train_cfg.score_power': 1.0}
    cfg = load(own, atss, **LIGHT_FPN, **given).model.semi_train_cfg
    assert (cfg.score_thr, cfg.ignore_score_thr, cfg.score_power) == (0.7, 0.3, 1.0)
    cfg = load(own, 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', **LIGHT_FPN).model
    assert cfg.semi_train_cfg.score_thr == 0.5 and 'score_power' not in cfg.semi_train_cfg
    assert cfg.consistency.kind == 'js'
    cfg = load(own, 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', **LIGHT_FPN).model
    assert cfg.semi_train_cfg.score_thr == 0.7 and cfg.consistency.kind == 'js'
    assert 'no weights of boxes' not in capsys.readouterr().err
    cfg = load(own, 'mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py', **LIGHT_FPN).model
    assert cfg.consistency.kind == 'none' and cfg.semi_train_cfg.ignore_score_thr is None
    assert 'AutoAssignHead assigns boxes in a way' in capsys.readouterr().err


def test_what_disturbs_the_teachers_is_left_out(own, capsys):
    cfg = load(
        own, 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', **{'optim_wrapper.clip_grad.max_norm': 3}
    )
    said = capsys.readouterr().err
    left_out = 'Mosaic, RandomAffine, YOLOXModeSwitchHook, EMAHook'
    assert f'left out of the config: {left_out}' in said
    assert cfg.model.data_preprocessor.data_preprocessor.batch_augments is None
    pipeline = [transform.type for transform in cfg.train_dataloader.dataset.datasets[0].pipeline]
    assert pipeline == [
        'LoadImageFromFile', 'LoadAnnotations', 'YOLOXHSVRandomAug', 'RandomFlip', 'Resize', 'Pad',
        'FilterAnnotations', 'MultiBranch',
    ]  # fmt: skip
    views = cfg.train_dataloader.dataset.datasets[2].pipeline[-1]
    assert [transform.type for transform in views.unsup_teacher] == [
        'Resize', 'RandomFlip', 'Pad', 'PackDetInputs'
    ]  # fmt: skip
    strong = [
        'Resize', 'RandomFlip', 'RandAugment', 'RandAugment', 'RandomErasing', 'Pad',
        'PackDetInputs',
    ]  # fmt: skip
    for student in (views.unsup_student1, views.unsup_student2):
        assert [transform.type for transform in student] == strong
    kinds = [hook.type for hook in cfg.custom_hooks]
    assert kinds == ['SyncNormHook', 'mmext.CycleTeacherHook', 'mmext.DistributionConsistencyHook',
                     'mmext.IterSeedHook']  # fmt: skip
    # One norm over both students would couple them.
    assert 'clip_grad' not in cfg.optim_wrapper
    assert cfg.custom_hooks[1].clip_grad == dict(max_norm=3)


def test_a_hook_that_would_switch_the_pipeline_gives_the_one_that_mixes_nothing(own):
    cfg = load(own, 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', **{
        'model.detector.backbone.init_cfg': None, 'model.detector.backbone.norm_cfg.type': 'BN',
        'model.detector.neck.norm_cfg.type': 'BN', 'model.detector.bbox_head.norm_cfg.type': 'BN',
    })  # fmt: skip
    labelled = cfg.train_dataloader.dataset.datasets[0].pipeline
    # The first stage has scale=(1280, 1280), of a mosaic.
    assert labelled[2].type == 'RandomResize' and labelled[2].scale == (640, 640)
    assert cfg.model.consistency.kind == 'js' and cfg.model.semi_train_cfg.score_thr == 0.5


def test_validation(own, capsys):
    cfg = load(own)
    assert cfg.val_dataloader is cfg.val_cfg is cfg.val_evaluator is cfg.test_evaluator is None
    assert 'validation: none' in capsys.readouterr().err
    cfg = load(own, **{'semi.val': f'{own}/val.json'})
    for stage in ('val', 'test'):
        dataset = cfg[f'{stage}_dataloader'].dataset
        assert dataset.ann_file == cfg[f'{stage}_evaluator'].ann_file == f'{own}/val.json'
        assert dataset.data_prefix.img == f'{own}/val' and dataset.metainfo.classes == CLASSES
    # The host's own stays where the classes are the same.
    same = {'val_dataloader.dataset.metainfo.classes': CLASSES}
    cfg = load(own, **same)
    assert cfg.val_evaluator.ann_file == 'data/digit_scenes/annotations/instances_val.json'


def test_a_plain_config_in_python_and_lines_that_say_what_was_chosen(own):
    cfg = Config.fromfile(HOST)
    lines = add_own_data(cfg, f'{own}/mine.json', f'{own}/photos', batch=(1, 2))
    boxes = len(json.loads((own / 'mine.json').read_text())['annotations'])
    assert lines == [
        f'labelled: 6 images in {own}/images, {boxes} boxes of 3 classes: bolt, nut, nail',
        f'unlabelled: 18 images of {own}/photos, those of --labelled and --val left out',
        'num_classes: 10 -> 3 in bbox_head',
        '12 epochs of 3 steps with 8 images are 36 iterations',
        'a step takes 1 labelled images for each student and 2 unlabelled ones; batch_size is 4, '
        '8 in the config',
        'validation: none, the config has none of these classes; --val FILE.json gives one',
    ]
    assert launch.overlay.apply(cfg, ['cst']).model.detector.bbox_head.num_classes == 3


def test_runs_are_repeatable_unless_they_have_a_seed(own):
    assert load(own).randomness.seed == 0
    assert load(own, randomness={'seed': 5}).randomness.seed == 5
    assert load(own, randomness={'deterministic': True}).randomness == dict(
        seed=0, deterministic=True
    )


def spoilt(own, tmp_path, change):
    content = json.loads((own / 'mine.json').read_text())
    change(content)
    (tmp_path / 'spoilt.json').write_text(json.dumps(content))
    return f'{tmp_path}/spoilt.json'


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c.update(annotations=[]), 'has no annotations: there is nothing to learn'),
        (lambda c: c.update(images=[]), 'has no images'),
        (lambda c: c.pop('categories'), 'it has no list of categories'),
        (lambda c: c['annotations'][3].pop('area'), r"annotations\[3\] has no 'area'"),
        (lambda c: c['images'][1].pop('width'), r"images\[1\] has no 'width'"),
        (lambda c: c['categories'][1].update(name='bolt'), "two categories have the name 'bolt'"),
        (lambda c: c['images'][2].update(file_name='lost.png'), 'lost.png, an image of .*spoilt'),
        (lambda c: c['images'][0].update(file_name='x.png'), 'x.png.*by --labelled-images'),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place(own, tmp_path, change, message):
    path = spoilt(own, tmp_path, change)
    images = {} if '--labelled-images' in message else {'semi.images': f'{own}/images'}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(own, **{'semi.labelled': path, **images})


@pytest.mark.parametrize(
    'change, message',
    [
        ({'semi.labelled': 'no/file.json'}, '--labelled no/file.json does not exist'),
        ({'semi.labelled': HOST}, 'retinanet_r18_digits.py is no COCO annotation file'),
        ({'semi.unlabelled': 'no/folder'}, '--unlabelled no/folder does not exist'),
        ({'semi.unlabelled': '{own}/images'}, 'images has no image that has no labels already'),
        ({'semi.images': '{own}/photos'}, 'is not in .*photos: name its folder'),
        ({'semi.unlabelled': None}, r'--unlabelled \(semi.unlabelled .* is missing'),
        ({'semi.unlabeled': 'x'}, 'semi.unlabeled is no key .*did you mean unlabelled'),
        ({'semi.batch': [2]}, 'semi.batch=.* must be two whole numbers'),
        ({'semi.batch': [2, 0]}, 'semi.batch=.* must be two whole numbers'),
        ({'train_cfg.type': 'MyLoop'}, "train_cfg.type='MyLoop'"),
        ({'train_dataloader': None}, 'has no train_dataloader'),
    ],
)
def test_mistakes_are_one_line(own, change, message):
    change = {k: v.format(own=own) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as found:
        load(own, **change)
    assert '\n' not in str(found.value)


def test_classes_of_the_validation_must_have_the_order_that_labels_have(own, tmp_path):
    def swap(content):
        content['categories'].reverse()

    val = {'semi.val': spoilt(own, tmp_path, swap), 'semi.val_images': f'{own}/images'}
    with pytest.raises(ValueError, match='same order, bolt, nut, nail; it has nail, nut, bolt'):
        load(own, **val)
    # More categories than those that are learnt do no harm.
    val['semi.val'] = spoilt(
        own, tmp_path, lambda c: c['categories'].insert(0, {'id': 9, 'name': 'pin'})
    )
    cfg = load(own, **val)
    assert cfg.val_dataloader.dataset.metainfo.classes == CLASSES


def test_masks_and_semi_supervised_hosts_are_refused(own):
    with pytest.raises(ValueError, match='MaskRCNN of the config learns masks'):
        load(own, 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', **LIGHT)
    with pytest.raises(ValueError, match='does not end with PackDetInputs'):
        load(own, 'mmdet::soft_teacher/'
             'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')  # fmt: skip


@pytest.mark.parametrize(
    'flags, named',
    [
        (['--labelled', 'a.json', '--unlabelled', 'b'], 'by --with cst only: add --with cst'),
        (['--with', 'smoothout', '--val', 'a.json'], 'by --with cst only: add --with cst'),
        (['--with', 'cst', '--labelled', 'a.json'], '--unlabelled'),
        (['--with', 'cst'], '--labelled FILE.json --unlabelled FOLDER'),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(['train', HOST, *flags])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('mmext train: error: ') and named in line


def test_images_of_one_name_in_two_places_are_told_apart_by_the_reader(own, tmp_path):
    for folder in ('val', 'images'):
        shutil.copytree(own / 'val', tmp_path / folder)
    shutil.copy(own / 'val.json', tmp_path)
    with pytest.raises(ValueError, match='val.json are in .*/images and in .*/val: name .*val_im'):
        load(own, **{'semi.val': f'{tmp_path}/val.json'})
    named = {'semi.val': f'{tmp_path}/val.json', 'semi.val_images': f'{tmp_path}/val'}
    assert load(own, **named).val_dataloader.dataset.data_prefix.img == f'{tmp_path}/val'


def test_a_coco_file_of_unlabelled_images_without_categories(own, tmp_path):
    images = [{'file_name': path.name} for path in sorted((own / 'photos/day 1').iterdir())]
    listed = tmp_path / 'free.json'
    listed.write_text(json.dumps({'images': images}))
    with pytest.raises(FileNotFoundError, match='is not in'):
        load(own, **{'semi.unlabelled': str(listed)})
    shutil.copytree(own / 'photos/day 1', tmp_path / 'images')
    cfg = load(own, **{'semi.unlabelled': str(listed)})
    dataset = DATASETS.build(cfg.train_dataloader.dataset.datasets[2])
    assert len(dataset) == len(images)
