"""The base configs of real sets on tiny files in the official formats."""

from pathlib import Path

import cv2
import numpy as np
import official_files
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import METRICS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10, MNIST

CONFIGS = Path(__file__).parents[2] / 'configs/_base_/datasets'


@pytest.fixture
def loader(tmp_path, monkeypatch):
    """Build a dataloader of a base config, with data/ in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def build(name, split, scope='mmpretrain', **changes):
        init_default_scope(scope)
        cfg = Config.fromfile(CONFIGS / f'{name}.py')
        settings = cfg[f'{split}_dataloader']
        settings.update(num_workers=0, persistent_workers=False)
        settings.dataset.update(changes)
        return Runner.build_dataloader(settings, seed=0)

    return build


@pytest.mark.parametrize('name, folder', [('mnist', 'mnist'), ('fashion_mnist', 'fashion-mnist')])
def test_idx_sets_have_three_disjoint_parts(loader, name, folder, monkeypatch):
    def never(self):
        raise AssertionError('a download was tried')

    monkeypatch.setattr(MNIST, '_download', never)
    sets = official_files.write_mnist(Path('data') / folder)
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    assert cfg.train_dataloader.dataset.indices == 55000
    assert cfg.val_dataloader.dataset.indices == -5000
    # The proportion of 60,000 images, of 40.
    parts = {
        'train': (loader(name, 'train', indices=30), sets['train'][:30]),
        'val': (loader(name, 'val', indices=-10), sets['train'][30:]),
        'test': (loader(name, 'test'), sets['test']),
    }
    for _, (found, images) in parts.items():
        dataset = found.dataset
        assert dataset.images.shape == (len(images), 1, 32, 32)
        assert dataset.get_gt_labels().tolist() == [i % 10 for i in range(len(images))]
        # Enlarged from 28 to 32 pixels: the corners stay.
        assert np.array_equal(dataset.images[:, 0, 0, 0].numpy(), images[:, 0, 0])
    batch = next(iter(parts['val'][0]))
    assert batch['inputs'].shape == (10, 1, 32, 32)


@pytest.mark.parametrize('name', ['cifar10', 'cifar10_jpeg'])
def test_cifar10_holds_out_the_last_of_each_class(loader, name, monkeypatch):
    if name == 'cifar10':
        for part in ('train_list', 'test_list'):
            files = [[file, None] for file, _ in getattr(CIFAR10, part)]
            monkeypatch.setattr(CIFAR10, part, files)
        sets = official_files.write_cifar10(Path('data/cifar10'))
    else:
        official_files.write_class_folders(Path('data/cifar10_jpeg'), train=10)
    train = loader(name, 'train', per_class=7).dataset
    val = loader(name, 'val', per_class=-3).dataset
    test = loader(name, 'test').dataset
    assert train.CLASSES == val.CLASSES == official_files.CIFAR10_CLASSES
    assert np.bincount(train.get_gt_labels()).tolist() == [7] * 10
    assert np.bincount(val.get_gt_labels()).tolist() == [3] * 10
    assert len(test) == 20
    found = {image.numpy().tobytes() for image in train.images}
    held_out = {image.numpy().tobytes() for image in val.images}
    assert len(found) == 70 and len(held_out) == 30 and not found & held_out
    if name == 'cifar10':
        images, labels = sets['train']
        last = [np.flatnonzero(np.array(labels) == label)[-3:] for label in range(10)]
        expected = images[np.sort(np.concatenate(last))].transpose(0, 3, 1, 2)
        assert np.array_equal(val.images.numpy(), expected)


def test_both_cifar10_configs_give_the_network_rgb(loader):
    official_files.write_class_folders(Path('data/cifar10_jpeg'))
    file = Path('data/cifar10_jpeg/test/automobile/0001.jpg')
    rgb = torch.from_numpy(cv2.imread(str(file))[..., ::-1].transpose(2, 0, 1).copy())
    # MMPretrain's CIFAR10 gives RGB, JPEG files are read as BGR.
    read = loader('cifar10_jpeg', 'test').dataset[3]['inputs']
    for name, inputs in (('cifar10_jpeg', read), ('cifar10', rgb)):
        preprocessor = MODELS.build(Config.fromfile(CONFIGS / f'{name}.py').data_preprocessor)
        seen = preprocessor({'inputs': inputs[None]})['inputs'][0]
        assert torch.allclose(seen * preprocessor.std + preprocessor.mean, rgb.float(), atol=0.01)


def evaluate(found, evaluator):
    """COCO's metrics of predictions that are the ground truth."""
    metric = METRICS.build(evaluator)
    metric.dataset_meta = found.dataset.metainfo
    for batch in found:
        for sample in batch['data_samples']:
            truth = sample.gt_instances
            # Loaded after the Resize, the boxes are those of the file, as are a head's answers.
            answer = sample.to_dict()
            answer['pred_instances'] = dict(
                bboxes=truth.bboxes.tensor,
                labels=truth.labels,
                scores=torch.ones(len(truth)),
            )
            metric.process(batch, [answer])
    return metric.evaluate(len(found.dataset))


def test_bccd_is_read_and_scored_by_the_files_boxes(loader):
    boxes = official_files.write_voc(Path('data/bccd'))
    train = loader('bccd', 'train', 'mmdet')
    assert [len(item['instances']) for item in map(train.dataset.get_data_info, (0, 1))] == [2, 1]
    batch = next(iter(train))
    assert batch['inputs'][0].shape == (3, 240, 320)
    cfg = Config.fromfile(CONFIGS / 'bccd.py')
    for split, image in (('val', 'c'), ('test', 'd')):
        found = loader('bccd', split, 'mmdet')
        item = found.dataset.get_data_info(0)
        # VOC counts pixels from 1.
        assert [box['bbox'] for box in item['instances']] == [
            [value - 1 for value in box[1:]] for box in boxes[image]
        ]
        assert [cfg.classes[box['bbox_label']] for box in item['instances']] == [
            box[0] for box in boxes[image]
        ]
        result = evaluate(found, cfg[f'{split}_evaluator'])
        assert result['coco/bbox_mAP'] == 1.0


def test_fod_a_is_read_and_scored(loader):
    cfg = Config.fromfile(CONFIGS / 'fod_a.py')
    assert len(cfg.classes) == len(set(cfg.classes)) == 31
    official_files.write_coco(Path('data/fod_a'), cfg.classes)
    (instance,) = loader('fod_a', 'train', 'mmdet').dataset.get_data_info(0)['instances']
    assert instance['bbox'] == [20, 30, 70, 90] and cfg.classes[instance['bbox_label']] == 'Bolt'
    for split in ('val', 'test'):
        found = loader('fod_a', split, 'mmdet')
        assert evaluate(found, cfg[f'{split}_evaluator'])['coco/bbox_mAP'] == 1.0


def test_bsds500_gives_crops_of_its_own_photos(loader):
    draws = np.random.default_rng(0)
    official_files.write_image(Path('data/bsds500/images/train/1.jpg'), draws, 481, 321)
    found = loader('bsds500', 'train', 'mmengine')
    assert len(found.dataset) == 2400
    assert next(iter(found))['inputs'].shape == (4, 3, 96, 96)
