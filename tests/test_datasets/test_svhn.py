"""SVHN from tiny files in the official format."""

import numpy as np
import pytest
from mmengine.registry import DATASETS
from scipy.io import savemat


def write(path, count, seed, **changes):
    draws = np.random.default_rng(seed)
    content = dict(
        X=draws.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
        y=(np.arange(count)[:, None] % 10 + 1).astype(np.uint8),
    )
    savemat(path, {**content, **changes}, do_compression=True)
    return content['X']


def build(root, split='train', **settings):
    return DATASETS.build(
        dict(type='mmext.SVHNDataset', data_root=str(root), split=split, **settings)
    )


def test_images_are_bgr_and_ten_is_zero(tmp_path):
    images = write(tmp_path / 'train_32x32.mat', 12, 0)
    dataset = build(tmp_path)
    assert len(dataset) == 12
    item = dataset[3]
    assert item['img'].dtype == np.uint8 and item['img'].flags['C_CONTIGUOUS']
    assert np.array_equal(item['img'], images[:, :, ::-1, 3])
    assert [dataset[i]['gt_label'] for i in range(12)] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert dataset.get_gt_labels()[9] == 0
    assert dataset.CLASSES[0] == '0'


def test_splits_join_and_pack(tmp_path):
    write(tmp_path / 'train_32x32.mat', 3, 0)
    extra = write(tmp_path / 'extra_32x32.mat', 2, 1)
    dataset = build(tmp_path, 'train+extra', pipeline=[dict(type='mmpretrain.PackInputs')])
    assert len(dataset) == 5
    packed = dataset[4]
    assert packed['inputs'].shape == (3, 32, 32) and packed['data_samples'].gt_label.item() == 2
    assert np.array_equal(packed['inputs'].numpy()[::-1], extra[..., 1].transpose(2, 0, 1))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="split='valid'"):
        build(tmp_path, 'valid')
    with pytest.raises(FileNotFoundError, match='test_32x32.mat does not exist.*housenumbers'):
        build(tmp_path, 'test')
    (tmp_path / 'test_32x32.mat').write_bytes(b'no mat file at all' * 20)
    with pytest.raises(ValueError, match='not a cropped-digits file'):
        build(tmp_path, 'test')
    write(tmp_path / 'train_32x32.mat', 3, 0, y=np.array([[0], [1], [2]]))
    with pytest.raises(ValueError, match=r'N labels in 1\.\.10'):
        build(tmp_path)
    write(tmp_path / 'train_32x32.mat', 3, 0, X=np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r'\(3, 32, 32, 3\)'):
        build(tmp_path)
