"""Upscalers without a network, and the guided affine one as the strongest of them."""

import cv2
import numpy as np
import pytest

from mmext.datasets.photos import photo
from mmext.registry import UPSCALERS

ALL = ('Bicubic', 'GuidedFilter', 'GuidedAffine')
LOOK = np.array([[0.7, 0.2, 0.0, 25], [0.1, 0.6, 0.1, 12], [0.0, 0.1, 0.9, -12]])


def pair(size=(160, 240), scale=4):
    guide = cv2.resize(photo('rocket'), size[::-1], interpolation=cv2.INTER_AREA)
    wanted = cv2.transform(guide.astype(np.float32), LOOK)
    wanted = np.clip(np.rint(wanted), 0, 255).astype(np.uint8)
    small = cv2.resize(wanted, (size[1] // scale, size[0] // scale), interpolation=cv2.INTER_AREA)
    return guide, wanted, small


def psnr(made, wanted):
    return 10 * np.log10(255**2 / np.mean((made.astype(np.float64) - wanted) ** 2))


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('size', [(160, 240), (101, 157), (40, 60)])
def test_the_size_is_exact(name, size):
    guide, _, small = pair()
    guide = cv2.resize(guide, size[::-1], interpolation=cv2.INTER_AREA)
    made = UPSCALERS.build(dict(type=f'mmext.{name}')).upscale(small, size, guide)
    assert made.shape == (*size, 3) and made.dtype == np.uint8


def test_the_original_gives_its_detail_back():
    guide, wanted, small = pair()
    found = {
        name: psnr(
            UPSCALERS.build(dict(type=f'mmext.{name}')).upscale(small, guide.shape[:2], guide),
            wanted,
        )
        for name in ALL
    }
    assert found['GuidedAffine'] > found['Bicubic'] + 8


def test_a_guided_filter_of_a_linear_picture_returns_it():
    """Where the target is linear in the grey guide, the filter is exact."""
    grey = np.random.default_rng(0).integers(0, 256, (50, 60), np.uint8)
    guide = np.repeat(grey[..., None], 3, 2)
    target = np.rint(guide * [0.5, 0.8, 0.3] + [40, 10, 90]).astype(np.uint8)
    upscaler = UPSCALERS.build(dict(type='mmext.GuidedFilter', ridge=1e-6))
    assert np.abs(upscaler.upscale(target, (50, 60), guide).astype(int) - target).max() <= 1


@pytest.mark.parametrize('name', ('GuidedFilter', 'GuidedAffine'))
def test_a_guide_must_be_there_and_fit(name):
    guide, _, small = pair()
    upscaler = UPSCALERS.build(dict(type=f'mmext.{name}'))
    with pytest.raises(ValueError, match='needs guide'):
        upscaler.upscale(small, (160, 240))
    with pytest.raises(ValueError, match='wanted is'):
        upscaler.upscale(small, (80, 120), guide)
    with pytest.raises(ValueError, match='size='):
        UPSCALERS.build(dict(type='mmext.Bicubic')).upscale(small, (0, 10))
