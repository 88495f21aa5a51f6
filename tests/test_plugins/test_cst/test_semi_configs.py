"""The COCO and VOC configs train on tiny sets in the official formats."""

import json

import cv2
import numpy as np
import pytest
import torch
from cst_runs import CONFIG
from mmengine.config import Config
from mmengine.runner import Runner

from mmext.datasets.coco_split import split_coco

VOC_XML = """<annotation><size><width>80</width><height>64</height><depth>3</depth></size>
<object><name>{}</name><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>60</xmax><ymax>58</ymax></bndbox></object></annotation>
"""


def pictures(folder, count):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f'{index:06d}' for index in range(count)]
    for name in names:
        image = rng.integers(256, size=(64, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{name}.jpg'), image)
    return names


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco')
    names = pictures(root / 'train2017', 12)
    content = dict(
        images=[
            dict(id=i, file_name=f'{name}.jpg', width=80, height=64) for i, name in enumerate(names)
        ],
        annotations=[
            dict(id=i, image_id=i, category_id=1 + i % 2, bbox=[4, 5, 50, 50], area=2500, iscrowd=0)
            for i in range(12)
        ],
        categories=[dict(id=1, name='person'), dict(id=2, name='bicycle')],
    )
    (root / 'annotations').mkdir()
    (root / 'annotations/instances_train2017.json').write_text(json.dumps(content))
    split_coco(root / 'annotations/instances_train2017.json', root / 'semi_anns', [10], folds=1)
    return root


@pytest.fixture(scope='module')
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp('VOCdevkit')
    for year in ('VOC2007', 'VOC2012'):
        names = pictures(root / year / 'JPEGImages', 4)
        for folder in ('Annotations', 'ImageSets/Main'):
            (root / year / folder).mkdir(parents=True)
        for name in names:
            (root / year / f'Annotations/{name}.xml').write_text(VOC_XML.format('dog'))
        (root / year / 'ImageSets/Main/trainval.txt').write_text('\n'.join(names[:3]))
        (root / year / 'ImageSets/Main/test.txt').write_text(names[3])
    return root


def walk(node):
    if hasattr(node, 'items'):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from walk(value)


def shrink(cfg, root, work_dir):
    """A small ResNet-18, small views, two iterations, every box a pseudo-label."""
    detector = cfg.model.detector
    detector.backbone.update(depth=18, base_channels=8, init_cfg=None)
    detector.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    if 'roi_head' in detector:
        detector.rpn_head.update(in_channels=16, feat_channels=16)
        detector.roi_head.bbox_roi_extractor.out_channels = 16
        detector.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
        detector.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    else:
        norm = dict(type='GN', num_groups=4)
        detector.bbox_head.update(in_channels=16, feat_channels=16, norm_cfg=norm)
        detector.test_cfg.update(score_thr=0.0, max_per_img=5)
    cfg.model.semi_train_cfg.update(score_thr=0.0, ignore_score_thr=None)
    for node in walk(cfg._cfg_dict):
        if node.get('type') == 'RandomResize':
            node.scale = [(96, 64), (96, 96)]
        if node.get('type') == 'Resize':
            node.scale = (96, 96)
        if 'data_root' in node:
            node.data_root = f'{root}/'
        if node.get('type') == 'mmext.CycleTeacherHook':
            node.update(burn_in=1, ramp_up=0)
        if 'num_workers' in node:
            node.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.work_dir = str(work_dir)


@pytest.mark.parametrize(
    'name, data',
    [
        ('cst_faster-rcnn_r50_fpn_8xb6-180k_semi-0.1-coco', 'coco'),
        ('cst_fcos_r50_fpn_1xb6-72k_semi-voc0712', 'voc'),
    ],
)
def test_two_iterations_on_a_tiny_set(name, data, tmp_path, request):
    cfg = Config.fromfile(CONFIG.parent / f'{name}.py')
    shrink(cfg, request.getfixturevalue(data), tmp_path)
    if data == 'coco':
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    labelled = 1 if data == 'coco' else 2
    assert runner.train_dataloader.sampler.source_counts == [labelled, labelled, 6 - 2 * labelled]
    for student in '12':
        # 0 where no pseudo-box arrives.
        value = scalars[f'train/student{student}_unsup_loss_cls'].current()
        assert np.isfinite(value) and value > 0
    assert scalars['train/pseudo/teacher1'].current() > 0
    if data == 'voc':
        assert 'pascal_voc/mAP' in runner.test()


def test_one_percent_and_full_differ_from_ten_in_their_images_only():
    def images(setting):
        cfg = Config.fromfile(CONFIG.parent / f'cst_fcos_r50_fpn_8xb6-{setting}-coco.py')
        sources = cfg.train_dataloader.dataset.datasets
        found = [(source.ann_file, source.data_prefix.img) for source in sources]
        for source in sources:
            del source['ann_file'], source['data_prefix']
        return found, cfg.train_dataloader

    one, rest = images('180k_semi-0.01')
    full, other = images('720k_semi-full')
    part = 'semi_anns/instances_train2017.1@1'
    assert one == [(f'{part}.json', 'train2017/')] * 2 + [(f'{part}-unlabeled.json', 'train2017/')]
    assert full == [
        ('annotations/instances_train2017.json', 'train2017/'),
        ('annotations/instances_train2017.json', 'train2017/'),
        ('annotations/instances_unlabeled2017.json', 'unlabeled2017/'),
    ]
    assert rest == other


def test_learning_rates_follow_the_stated_rule():
    """lr = 0.01 for 8 labelled images of each student per step, in proportion."""
    for gpus, setting in ((8, '8xb6-180k_semi-0.1'), (1, '1xb6-180k_semi-0.1')):
        cfg = Config.fromfile(CONFIG.parent / f'cst_fcos_r50_fpn_{setting}-coco.py')
        sampler = cfg.train_dataloader.sampler
        labelled = sampler.batch_size * sampler.source_ratio[0] / sum(sampler.source_ratio) * gpus
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.01 * labelled / 8)
        assert cfg.auto_scale_lr.base_batch_size == gpus * cfg.train_dataloader.batch_size


@pytest.fixture(scope='module', autouse=True)
def fixed_seed():
    torch.manual_seed(0)
