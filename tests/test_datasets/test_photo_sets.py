"""Photos of a folder and pairs of photos, from tiny files in the official layouts."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS

from mmext.datasets.photo_pairs import REGIONS


def photos(folder, split='train', **settings):
    return DATASETS.build(
        dict(type='mmext.PhotoCrops', data_root=str(folder), split=split, size=16, **settings)
    )


def test_crops_are_cut_from_the_photos_of_the_split(tmp_path):
    colours = {'train': (10, 20, 30), 'val': (40, 50, 60)}
    for split, bgr in colours.items():
        (tmp_path / split).mkdir()
        cv2.imwrite(str(tmp_path / split / '1.png'), np.full((40, 30, 3), bgr, np.uint8))
        (tmp_path / split / 'Thumbs.db').touch()
    cv2.imwrite(str(tmp_path / 'val' / '2.png'), np.full((40, 30, 3), 99, np.uint8))
    for split, numbers in (('train', [(30, 20, 10)] * 2), ('val', [(60, 50, 40), (99, 99, 99)])):
        dataset = photos(tmp_path, split, num_samples=5)
        assert len(dataset) == 5
        for index, rgb in enumerate(numbers):
            crop = dataset[index]['inputs']
            assert crop.shape == (3, 16, 16) and crop.dtype == torch.uint8
            assert torch.equal(crop, torch.tensor(rgb).to(crop)[:, None, None].expand_as(crop))
    with pytest.raises(FileNotFoundError, match='test/.*.jpg is missing: correct data_root'):
        photos(tmp_path, 'test')
    (tmp_path / 'bsds500').mkdir()
    with pytest.raises(FileNotFoundError, match='mmext data bsds500 --root'):
        photos(tmp_path / 'bsds500/images')
    (tmp_path / 'val' / '0.png').write_text('no image')
    with pytest.raises(ValueError, match='val/0.png is no image'):
        photos(tmp_path, 'val')[0]
    with pytest.raises(ValueError, match="split='val' must be one of train, test"):
        DATASETS.build(dict(type='mmext.PhotoCrops', split='val'))


@pytest.fixture
def pairs(tmp_path):
    """Two pairs of 40 x 60 photos; the mask of 01 has every region, a little off its colour."""
    root = tmp_path / 'photo_style_pairs'
    draws = np.random.default_rng(0)
    stripes = np.repeat(np.array(REGIONS, np.int64), 5, 0)[None].repeat(40, 0)
    for name in ('01', '02'):
        for part, suffix, width in (
            ('content', 'jpg', 60), ('style', 'jpg', 50), ('deep_photo_style', 'jpg', 61),
        ):  # fmt: skip
            (root / part).mkdir(parents=True, exist_ok=True)
            image = np.full((40, width, 3), draws.integers(0, 256, 3), np.uint8)
            cv2.imwrite(str(root / part / f'{name}.{suffix}'), image)
        for part, mask in (
            ('content_masks', np.pad(stripes, ((0, 0), (0, 15), (0, 0)))), ('style_masks', stripes),
        ):  # fmt: skip
            (root / part).mkdir(exist_ok=True)
            blurred = np.clip(mask + draws.integers(-40, 41, mask.shape), 0, 255)
            cv2.imwrite(str(root / part / f'{name}.png'), blurred[..., ::-1].astype(np.uint8))
    return root


def build(root, **settings):
    return DATASETS.build(dict(type='mmext.PhotoPairs', data_root=str(root), **settings))


def test_pairs_have_photos_labels_and_the_published_result(pairs):
    dataset = build(pairs)
    assert [dataset[index]['name'] for index in range(len(dataset))] == ['01', '02']
    item = dataset[0]
    for part, folder in (('content', 'content'), ('style', 'style')):
        image = cv2.imread(str(pairs / folder / '01.jpg'))[..., ::-1].transpose(2, 0, 1)
        assert np.array_equal(item[part].numpy(), image)
    wanted = torch.arange(9).repeat_interleave(5).expand(40, 45)
    assert item['content_mask'].dtype == torch.int64 and item['content_mask'].shape == (40, 60)
    assert torch.equal(item['content_mask'][:, :45], wanted)
    # The style's mask is five pixels narrower than its photo, and stretched to it.
    assert item['style_mask'].shape == (40, 50) and set(item['style_mask'][0].tolist()) == {
        *range(9)
    }
    assert item['published'].shape == item['content'].shape == (3, 40, 60)


def test_pairs_shrink_to_the_longest_side(pairs):
    item = build(pairs, max_side=30)[1]
    assert item['content'].shape == item['published'].shape == (3, 20, 30)
    assert item['style'].shape == (3, 24, 30) and item['style_mask'].shape == (24, 30)
    assert item['content_mask'].shape == (20, 30)
    assert build(pairs, max_side=600)[1]['content'].shape == (3, 40, 60)


def test_mistakes_are_named(pairs):
    with pytest.raises(ValueError, match='max_side=8 must be at least 16'):
        build(pairs, max_side=8)
    (pairs / 'style_masks/02.png').unlink()
    with pytest.raises(FileNotFoundError, match='style_masks/02.png is missing: mmext data'):
        build(pairs)
    with pytest.raises(FileNotFoundError, match='is missing: mmext data mnist'):
        build(Path('data/mnist'))
