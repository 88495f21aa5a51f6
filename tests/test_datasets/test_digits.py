"""Digits: splits, stratification, rendering and MMPretrain's conventions."""

import hashlib
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mmext.datasets import rendering
from mmext.datasets.digits import DigitsDataset, handwritten_digits, render_font_digit
from mmext.registry import DATASETS

SPLITS = ('train', 'val', 'test')


def _hashes(images):
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in images]


def test_splits_share_no_image_and_cover_all():
    parts = [set(_hashes(handwritten_digits(split)[0])) for split in SPLITS]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == 1797
    assert set().union(*parts) == set(_hashes(load_digits().images))


def test_labels_belong_to_their_images():
    digits = load_digits()
    truth = dict(zip(_hashes(digits.images), digits.target, strict=True))
    for split in SPLITS:
        images, labels = handwritten_digits(split)
        assert [truth[key] for key in _hashes(images)] == labels.tolist()


def test_splits_are_stratified():
    total = np.bincount(load_digits().target)
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        counts = np.bincount(handwritten_digits(split)[1], minlength=10)
        assert np.abs(counts - share * total).max() <= 1


def test_splits_are_fixed():
    first = handwritten_digits('val')[0].copy()
    handwritten_digits.cache_clear()
    assert np.array_equal(handwritten_digits('val')[0], first)


def test_size_8_is_the_original_in_grey_levels():
    images, labels = handwritten_digits('test')
    dataset = DigitsDataset('test', size=8)
    assert dataset.get_gt_labels().tolist() == labels.tolist()
    for index in (0, 100, 358):
        expected = np.round(images[index] * 255 / 16).astype(np.uint8)
        assert np.array_equal(dataset[index]['img'][..., 0], expected)


def test_items_follow_the_conventions():
    for channels in (1, 3):
        dataset = DigitsDataset('val', channels=channels, indices=12)
        item = dataset[5]
        assert len(dataset) == 12
        assert item['img'].shape == (28, 28, channels)
        assert item['img'].dtype == np.uint8
        assert type(item['gt_label']) is int
        assert dataset.get_cat_ids(5) == [item['gt_label']]
        assert tuple(dataset.CLASSES) == tuple('0123456789')
        assert (item['img'] == item['img'][..., :1]).all()


def test_mmpretrain_pipeline_packs_items():
    pytest.importorskip('mmpretrain', reason='needs the extra "pretrain"')
    from mmpretrain.structures import DataSample

    dataset = DATASETS.build(
        {
            'type': 'mmext.DigitsDataset',
            'split': 'train',
            'channels': 3,
            'pipeline': [{'type': 'mmpretrain.PackInputs'}],
        }
    )
    packed = dataset[3]
    assert packed['inputs'].shape == (3, 28, 28)
    assert isinstance(packed['data_samples'], DataSample)
    assert packed['data_samples'].gt_label.tolist() == dataset.get_cat_ids(3)


def test_font_digits_depend_on_seed_and_index_alone():
    few = DigitsDataset('train', source='fontdigits', num_samples=12)
    many = DigitsDataset('train', source='fontdigits', num_samples=30)
    other = DigitsDataset('train', source='fontdigits', num_samples=12, seed=1)
    for index in range(12):
        assert np.array_equal(few[index]['img'], many[index]['img'])
    assert any(not np.array_equal(few[i]['img'], other[i]['img']) for i in range(12))
    assert np.bincount(many.get_gt_labels()).tolist() == [3] * 10


def test_font_digits_have_the_handwritten_size_by_default():
    assert len(DigitsDataset('val', source='fontdigits')) == len(DigitsDataset('val')) == 360


def test_fonts_of_splits_are_disjoint():
    names = [name for split in SPLITS for name in rendering.FONTS[split]]
    assert len(names) == len(set(names))


def test_every_font_draws_ten_different_digits():
    for fonts in rendering.FONTS.values():
        for font in fonts:
            shapes = {rendering.glyph_from_font(d, font).alpha.tobytes() for d in '0123456789'}
            assert len(shapes) == 10, font


def test_font_digits_of_unseen_fonts_are_recognisable():
    def features(split, count):
        pairs = [render_font_digit(split, 16, 0, index) for index in range(count)]
        rows = []
        for image, _ in pairs:
            y, x = np.nonzero(image > image.max() / 2)
            crop = image[y.min() : y.max() + 1, x.min() : x.max() + 1]
            grid = np.ix_(
                np.linspace(0, crop.shape[0] - 1, 10).round().astype(int),
                np.linspace(0, crop.shape[1] - 1, 10).round().astype(int),
            )
            rows.append(crop[grid].ravel() / image.max())
        return np.array(rows), np.array([label for _, label in pairs])

    known, known_labels = features('train', 500)
    asked, asked_labels = features('test', 100)
    distance = ((asked[:, None] - known[None]) ** 2).sum(-1)
    assert (known_labels[distance.argmin(1)] == asked_labels).mean() > 0.6


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'split': 'all'}, 'split'),
        ({'split': 'train', 'source': 'mnist'}, 'source'),
        ({'split': 'train', 'size': 7}, 'size'),
        ({'split': 'train', 'channels': 2}, 'channels'),
        ({'split': 'train', 'num_samples': 5}, 'num_samples'),
        ({'split': 'train', 'seed': 1}, 'seed'),
        ({'split': 'train', 'source': 'fontdigits', 'num_samples': 0}, 'num_samples'),
        ({'split': 'train', 'source': 'fontdigits', 'seed': -1}, 'seed'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitsDataset(**arguments)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    handwritten_digits.cache_clear()
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r'mmext\[data\]'):
        handwritten_digits('train')
