"""MNIST-M and coloured Fashion-MNIST: what is in the files, and the data set that reads them."""

import json

import numpy as np
import pytest
from tiny_sets import write_sets

from mmext.datasets import backgrounds, catalog, colored_fashion_mnist, idx, mnist_m
from mmext.datasets.array_images import ArrayImages, write_arrays
from mmext.registry import DATASETS

LUMINANCE = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_sets(folder)
    mnist_m.make(folder, folder / 'mnist_m')
    colored_fashion_mnist.make(folder, folder / 'colored_fashion_mnist')
    return folder


# MNIST-M ------------------------------------------------------------------------------------


def test_a_blend_is_the_absolute_difference_to_a_crop_of_a_photo():
    rng = np.random.default_rng(0)
    photos = [rng.integers(256, size=(9, 11, 3)).astype(np.uint8) for _ in range(3)]
    digits = rng.integers(256, size=(40, 4, 5)).astype(np.uint8)
    blended = mnist_m.blend_digits(digits, photos, np.random.default_rng(1))
    assert blended.dtype == np.uint8
    crops = [
        (number, photo[y : y + 4, x : x + 5].astype(int))
        for number, photo in enumerate(photos)
        for y in range(6)
        for x in range(7)
    ]
    used = []
    for digit, image in zip(digits.astype(int), blended, strict=True):
        fits = [
            (number, crop.tobytes())
            for number, crop in crops
            if np.array_equal(np.abs(digit[..., None] - crop), image)
        ]
        assert len(fits) == 1
        used += fits
    assert {number for number, _ in used} == {0, 1, 2}
    assert len(set(used)) > 15


def test_mnist_m_has_the_digits_in_order_and_photos_of_one_part(root):
    for part, official, channel in (('train', 'train', 2), ('test', 't10k', 0)):
        digits, labels = idx.read_pair('mnist', official, root)
        images = np.load(root / 'mnist_m' / f'{part}_images.npy')
        assert images.shape == (len(digits), 32, 32, 3)
        assert np.array_equal(np.load(root / 'mnist_m' / f'{part}_labels.npy'), labels)
        # Photos have one colour in a split: blue ones for training, red ones for the test.
        bgr = backgrounds.load_photos('bsds500', part, root)[0][0, 0].astype(int)
        padded = np.pad(digits, ((0, 0), (2, 2), (2, 2))).astype(int)
        assert np.array_equal(images, np.abs(padded[..., None] - bgr[::-1]))
        assert images[0, 0, 0].argmax() == channel


# coloured Fashion-MNIST ---------------------------------------------------------------------


def test_garments_differ_from_their_ground_in_luminance_both_ways():
    grey = np.zeros((400, 12, 12), np.uint8)
    grey[:, 4:8, 4:8] = 255
    images = colored_fashion_mnist.colour_garments(grey, np.random.default_rng(0))
    luminance = images.astype(float) @ LUMINANCE
    cloth = luminance[:, 5, 5]
    # A ground is linear, so its extremes are at its border.
    border = np.concatenate(
        [luminance[:, 0], luminance[:, -1], luminance[:, :, 0], luminance[:, :, -1]], 1
    )
    brighter, darker = cloth - border.max(1), border.min(1) - cloth
    assert np.maximum(brighter, darker).min() > colored_fashion_mnist.MIN_CONTRAST - 2
    assert 0.35 < (brighter > 0).mean() < 0.65


def test_the_ground_is_a_linear_ramp_and_texture_stays():
    grey = np.zeros((50, 16, 16), np.uint8)
    grey[:, 6:10, 6:8], grey[:, 6:10, 8:10] = 102, 255
    images = colored_fashion_mnist.colour_garments(grey, np.random.default_rng(1)).astype(float)
    ground = images[:, 0]
    assert np.abs(ground[:, 2:] - 2 * ground[:, 1:-1] + ground[:, :-2]).max() <= 2
    assert np.abs(ground[:, -1] - ground[:, 0]).max() > 60
    # 0.4 + 0.6 * 0.4 of the colour, for all colours that can be told.
    dark, light = images[:, 7, 6], images[:, 7, 9]
    bright = light > 100
    assert dark[bright] / light[bright] == pytest.approx(0.64, abs=0.01)


def test_coloured_garments_are_those_of_fashion_mnist(root):
    for part, official in (('train', 'train'), ('test', 't10k')):
        garments, labels = idx.read_pair('fashion-mnist', official, root)
        images = np.load(root / 'colored_fashion_mnist' / f'{part}_images.npy')
        assert images.shape == (len(garments), 32, 32, 3)
        found = np.load(root / 'colored_fashion_mnist' / f'{part}_labels.npy')
        assert np.array_equal(found, labels)
        # Cloth of grey level 255 / 5 and more is opaque: equal grey levels have equal colours.
        grey, image = garments[0], images[0, 2:-2, 2:-2]
        for level in np.unique(grey[grey > 51]):
            assert len(np.unique(image[grey == level], axis=0)) == 1


@pytest.mark.parametrize('module', [mnist_m, colored_fashion_mnist])
def test_equal_sources_make_equal_files(root, tmp_path, module):
    name = module.__name__.rsplit('.')[-1]
    module.make(root, tmp_path / 'again')
    for path in (root / name).iterdir():
        assert path.read_bytes() == (tmp_path / 'again' / path.name).read_bytes()
    with pytest.raises(FileExistsError):
        module.make(root, tmp_path / 'again')


@pytest.mark.parametrize(
    ('module', 'missing'), [(mnist_m, 'mnist'), (colored_fashion_mnist, 'fashion-mnist')]
)
def test_a_missing_source_is_named_with_its_command(tmp_path, module, missing):
    with pytest.raises(FileNotFoundError, match=rf'{missing} is missing: mmext data {missing}'):
        module.make(tmp_path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# the data set -------------------------------------------------------------------------------


def test_splits_are_disjoint_parts_of_the_files(root):
    folder = str(root / 'mnist_m')
    train, val, test = (ArrayImages(folder, split) for split in ('train', 'val', 'test'))
    assert [len(train), len(val), len(test)] == [44, 4, 12]
    both = ArrayImages(folder, 'train+val')
    images = np.load(root / 'mnist_m' / 'train_images.npy')
    assert len(both) == len(images) == 48
    for number in range(48):
        part = train[number] if number < 44 else val[number - 44]
        assert np.array_equal(part['img'], images[number][..., ::-1])
        assert np.array_equal(both[number]['img'], part['img'])
        assert both[number]['gt_label'] == part['gt_label']
    assert np.array_equal(test.get_gt_labels(), np.load(root / 'mnist_m' / 'test_labels.npy'))


def test_items_follow_the_conventions(root):
    dataset = DATASETS.build(
        {
            'type': 'mmext.ArrayImages',
            'data_root': str(root / 'colored_fashion_mnist'),
            'split': 'val',
            'indices': [1, 3],
        }
    )
    assert len(dataset) == 2
    item = dataset[1]
    assert item['img'].shape == (32, 32, 3)
    assert item['img'].dtype == np.uint8
    assert item['img'].flags['C_CONTIGUOUS']
    assert set(item) == {'img', 'gt_label', 'sample_idx'}
    assert tuple(dataset.CLASSES) == idx.CLASSES['fashion-mnist']
    assert dataset.get_cat_ids(0) == [5]
    images = np.load(root / 'colored_fashion_mnist' / 'train_images.npy')
    assert np.array_equal(item['img'], images[47][..., ::-1])


def test_wrong_arguments_and_files(root, tmp_path):
    with pytest.raises(ValueError, match='split must be one of'):
        ArrayImages(str(root / 'mnist_m'), 'extra')
    with pytest.raises(FileNotFoundError, match=r'images\.npy is missing: mmext data mnist_m'):
        ArrayImages(str(tmp_path / 'mnist_m'), 'train')
    grey = np.zeros((4, 8, 8), np.uint8)
    write_arrays(tmp_path / 'grey', {'test': (grey, np.zeros(4))}, 'ab')
    assert json.loads((tmp_path / 'grey' / 'classes.json').read_text()) == ['a', 'b']
    with pytest.raises(ValueError, match=r'expected uint8 \(n, H, W, 3\)'):
        ArrayImages(str(tmp_path / 'grey'), 'test')


@pytest.mark.parametrize('name', ['mnist_m', 'colored_fashion_mnist'])
def test_the_catalogue_knows_who_makes_them(name):
    entry = catalog.named(name)
    assert entry.make == f'mmext.datasets.{name}:make'
