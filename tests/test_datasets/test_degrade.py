"""Low-quality versions."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import TRANSFORMS

import mmext  # noqa: F401
from mmext.datasets.degrade import Degrade, PackGANInputs, degrade

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_each_part_of_the_degradation():
    nothing = degrade(IMAGE, 1, 0, 0, 0, 0)
    assert np.array_equal(nothing, IMAGE)
    small = cv2.resize(IMAGE, (8, 8), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (16, 16), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(degrade(IMAGE, 2, 0, 0, 0, 0), expected)
    assert np.array_equal(degrade(IMAGE, 1, 1.5, 0, 0, 0), cv2.GaussianBlur(IMAGE, (0, 0), 1.5))
    grey = np.full((64, 64), 128, np.uint8)
    noise = degrade(grey, 1, 0, 10, 0, seed=1).astype(float) - 128
    assert noise.std() == pytest.approx(10, rel=0.05) and abs(noise.mean()) < 1
    plain = IMAGE[..., 0]
    poor, good = (
        np.abs(degrade(plain, 1, 0, 0, quality, 0).astype(int) - plain).mean()
        for quality in (10, 100)
    )
    assert poor > 3 * good > 0


@pytest.mark.parametrize('shape', [(12, 14), (12, 14, 1), (12, 14, 3)])
def test_shapes_stay(shape):
    image = np.zeros(shape, np.uint8)
    assert degrade(image, 3, 0.5, 5, 50, 0).shape == shape


def test_an_image_has_one_low_quality_version_for_ever():
    transform = TRANSFORMS.build(dict(type='mmext.Degrade'))
    first, again, other = (transform({'img': IMAGE, 'sample_idx': i})['lq'] for i in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    changed = Degrade(seed=1)({'img': IMAGE, 'sample_idx': 4})['lq']
    assert not np.array_equal(first, changed)


def test_or_a_new_one_for_each_draw():
    transform = Degrade(fixed=False)
    np.random.seed(0)
    first, second = (transform({'img': IMAGE})['lq'] for _ in range(2))
    np.random.seed(0)
    assert not np.array_equal(first, second)
    assert np.array_equal(transform({'img': IMAGE})['lq'], first)


def test_nothing_of_the_high_quality_gets_through():
    sample = Degrade()({'img': IMAGE, 'sample_idx': 0, 'is_hq': False})
    assert np.array_equal(sample['img'], sample['lq'])
    kept = Degrade()({'img': IMAGE, 'sample_idx': 0, 'is_hq': True})
    assert np.array_equal(kept['img'], IMAGE) and not np.array_equal(kept['lq'], IMAGE)


@pytest.mark.parametrize(
    'settings',
    [dict(shrink=(0.5, 2)), dict(blur=(2, 1)), dict(noise=(-1, 1)), dict(quality=(0, 9))],
)
def test_ranges_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Degrade(**settings)


def test_only_bytes_are_degraded():
    with pytest.raises(ValueError, match='uint8'):
        Degrade()({'img': IMAGE.astype(np.float32), 'sample_idx': 0})


def test_packed_samples_collate():
    samples = [
        PackGANInputs()(Degrade()({'img': IMAGE, 'sample_idx': i, 'gt_label': i, 'is_hq': i == 0}))
        for i in range(2)
    ]
    data = default_collate(samples)
    assert data['inputs']['img'].shape == data['inputs']['lq'].shape == (2, 3, 16, 16)
    assert data['inputs']['img'].dtype == torch.uint8
    first, second = data['data_samples']
    assert (first.is_hq, second.is_hq, second.sample_idx) == (True, False, 1)
    assert second.gt_label.tolist() == [1]
    bare = PackGANInputs()({'img': IMAGE[..., 0], 'sample_idx': 3})
    assert bare['inputs']['img'].shape == (1, 16, 16) and 'gt_label' not in bare['data_samples']
