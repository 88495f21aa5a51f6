"""Base configs of the scenes and of the coloured sets: what they load, at which size, mirrored or
not."""

import ast
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from tiny_sets import write_sets

from mmext.datasets import colored_fashion_mnist, idx, mnist_m
from mmext.datasets.scene_settings import DATA_SETS
from mmext.datasets.scenes import generate

BASES = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
VIEWS = ('unsup_teacher', 'unsup_student1', 'unsup_student2')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    pytest.importorskip('mmdet', reason='needs the extra "det"')
    from mmext.compat import mmcv_ops

    mmcv_ops.install()
    import mmdet.datasets  # noqa: F401

    folder = tmp_path_factory.mktemp('data')
    write_sets(folder)
    few = {'train': 40, 'val': 4, 'test': 4, 'percent': (1, 50), 'folds': 1}
    for name in ('mnist_scenes', 'fashion_scenes'):
        generate(folder / name, replace(DATA_SETS[name], **few), data_root=folder)
    return folder


def _load(name, root):
    """The base config with its data below ``root``; half of the images are labelled."""
    text = repr(Config.fromfile(BASES / f'{name}.py').to_dict())
    init_default_scope('mmdet')
    return Config(ast.literal_eval(text.replace("'data/", f"'{root}/").replace('@1', '@50')))


@pytest.mark.parametrize('name', ['mnist_scenes', 'fashion_scenes'])
def test_labelled_images_are_cut_to_160_with_all_their_classes(root, name):
    cfg = _load(name, root)
    (source,) = cfg.train_dataloader.dataset.datasets
    dataset = DATASETS.build(source)
    assert len(dataset) == 20
    classes = idx.CLASSES[DATA_SETS[name].objects]
    assert dataset.metainfo['classes'] == classes
    labels = set()
    for number in range(20):
        item = dataset[number]
        assert item['inputs'].shape == (3, 160, 160)
        labels |= set(item['data_samples'].gt_instances.labels.tolist())
    # Those of the tiny training split.
    assert labels == {0, 1, 2, 3}


@pytest.mark.parametrize('name', ['mnist_scenes', 'fashion_scenes'])
@pytest.mark.parametrize('split', ['val', 'test'])
def test_evaluation_shrinks_whole_scenes_and_keeps_their_boxes(root, name, split):
    cfg = _load(name, root)
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    assert len(dataset) == 4
    for number in range(4):
        sample = dataset[number]
        assert sample['inputs'].shape == (3, 160, 160)
        factor = sample['data_samples'].scale_factor
        assert factor == pytest.approx((160 / 176, 160 / 176))
        # Predictions are brought back to the whole scene, where the true boxes stay.
        original = [i['bbox'] for i in dataset.get_data_info(number)['instances']]
        found = sample['data_samples'].gt_instances.bboxes.tensor.numpy()
        np.testing.assert_array_equal(found, original)
    ann_file = cfg[f'{split}_evaluator'].ann_file
    assert ann_file == f'{root}/{name}/annotations/instances_{split}.json'
    assert cfg[f'{split}_dataloader'].dataset.data_prefix.img == f'{split}/'


@pytest.mark.parametrize(('name', 'mirrors'), [('mnist_scenes', False), ('fashion_scenes', True)])
def test_homographies_of_unlabelled_views_say_where_the_pixels_went(root, name, mirrors):
    cfg = _load(f'{name}_semi', root)
    first, second, source = cfg.train_dataloader.dataset.datasets
    branches = source.pipeline[-1]
    for branch in VIEWS:
        # Colours and erased patches have no place in the comparison of pixels.
        branches[branch] = [
            step
            for step in branches[branch]
            if step.type != 'RandomErasing' and step.get('aug_space') != cfg.colour
        ]
    dataset = DATASETS.build(source)
    assert len(dataset) == 20
    mirrored: dict[str, set] = {branch: set() for branch in VIEWS}
    for number in range(20):
        item = dataset[number]
        scene = cv2.imread(dataset.get_data_info(number)['img_path'])
        for branch in VIEWS:
            view = item['inputs'][branch].numpy().transpose(1, 2, 0)
            sample = item['data_samples'][branch]
            assert view.shape == (160, 160, 3)
            assert len(sample.gt_instances) == 0
            matrix = sample.homography_matrix
            warped = cv2.warpPerspective(scene, matrix, (160, 160)).astype(float)
            inside = cv2.warpPerspective(np.ones((176, 176)), matrix, (160, 160)) > 0.99
            # The ground has one colour; what is pasted on it, some hundred pixels, has others.
            ground = np.median(scene, (0, 1))
            pasted = inside & (np.abs(warped - ground).max(2) > 40)
            assert pasted.sum() > 100
            assert np.median(np.abs(view - warped)[pasted]) < 8
            mirrored[branch].add(bool(np.linalg.det(matrix[:2, :2]) < 0))
    expected = {False, True} if mirrors else {False}
    assert all(found == expected for found in mirrored.values())


@pytest.mark.parametrize('name', ['mnist_scenes', 'fashion_scenes'])
def test_both_students_see_the_labelled_images_and_nobody_sees_them_unlabelled(root, name):
    cfg = _load(f'{name}_semi', root)
    first, second, unlabelled = map(DATASETS.build, cfg.train_dataloader.dataset.datasets)
    ids = [
        {dataset.get_data_info(i)['img_id'] for i in range(20)}
        for dataset in (first, second, unlabelled)
    ]
    assert ids[0] == ids[1]
    assert ids[0] | ids[2] == set(range(1, 41))
    assert not ids[0] & ids[2]
    for dataset, branch in ((first, 'sup_student1'), (second, 'sup_student2')):
        samples = dataset[0]['data_samples']
        assert [key for key in samples if samples[key] is not None] == [branch]
        assert len(samples[branch].gt_instances)
    assert sum(cfg.train_dataloader.sampler.source_ratio) == 4
    assert cfg.train_dataloader.sampler.batch_size == cfg.train_dataloader.batch_size == 16


@pytest.mark.parametrize(
    ('name', 'module'), [('mnist_m', mnist_m), ('colored_fashion_mnist', colored_fashion_mnist)]
)
def test_coloured_sets_load_and_are_normalised_in_rgb(root, name, module):
    import mmpretrain.models  # noqa: F401

    module.make(root, root / name)
    cfg = _load(name, root)
    init_default_scope('mmpretrain')
    items = []
    for split, count in (('train', 44), ('val', 4), ('test', 12)):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(dataset) == count
        items.append(dataset[0])
    preprocessor = MODELS.build(dict(cfg.data_preprocessor, type='ClsDataPreprocessor'))
    batch = dict(
        inputs=torch.stack([item['inputs'] for item in items]),
        data_samples=[item['data_samples'] for item in items],
    )
    found = preprocessor(batch)['inputs'][2].numpy()
    image = np.load(root / name / 'test_images.npy')[0]
    expected = (image - np.array(cfg.data_preprocessor.mean)) / np.array(cfg.data_preprocessor.std)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-4, atol=1e-4)
