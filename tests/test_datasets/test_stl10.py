"""STL-10, from tiny files in the official format."""

import numpy as np
import pytest

from mmext.datasets.stl10 import STL10Dataset


@pytest.fixture
def folder(tmp_path):
    """Three training images and two unlabelled ones, RGB (N, H, W, 3) beside the files."""
    images = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), np.uint8)
    # The official order: channel, column, row.
    stored = images.transpose(0, 3, 2, 1)
    stored[:3].tofile(tmp_path / 'train_X.bin')
    stored[3:].tofile(tmp_path / 'unlabeled_X.bin')
    np.array([1, 10, 3], np.uint8).tofile(tmp_path / 'train_y.bin')
    return tmp_path, images


def test_images_and_labels(folder):
    root, images = folder
    dataset = STL10Dataset(str(root), 'train')
    assert len(dataset) == 3 and len(dataset.CLASSES) == 10
    assert dataset.get_gt_labels().tolist() == [0, 9, 2]
    for index in range(3):
        assert np.array_equal(dataset[index]['img'][..., ::-1], images[index])
        assert dataset[index]['sample_idx'] == index


def test_with_the_unlabelled_images_there_is_one_class(folder):
    root, images = folder
    dataset = STL10Dataset(str(root), 'train+unlabeled')
    assert len(dataset) == 5 and dataset.CLASSES == ('any',)
    assert set(dataset.get_gt_labels()) == {0}
    assert np.array_equal(dataset[4]['img'][..., ::-1], images[4])


def test_what_is_wrong(folder):
    root, _ = folder
    with pytest.raises(ValueError, match='train, test, unlabeled'):
        STL10Dataset(str(root), 'val')
    with pytest.raises(FileNotFoundError, match='test_X.bin.*published'):
        STL10Dataset(str(root), 'test')
    np.array([1, 11, 3], np.uint8).tofile(root / 'train_y.bin')
    with pytest.raises(ValueError, match='3 labels in 1..10'):
        STL10Dataset(str(root), 'train')
    with open(root / 'unlabeled_X.bin', 'ab') as file:
        file.write(b'x')
    with pytest.raises(ValueError, match='no multiple of 27,648'):
        STL10Dataset(str(root), 'unlabeled')
