"""Letters: determinism, independence of the digit test set, clear errors."""

import numpy as np
import pytest

from mmext.datasets import backgrounds, letters, rendering
from mmext.datasets.letters import LettersDataset, render_letter
from mmext.registry import DATASETS


def test_samples_depend_on_seed_and_index_alone():
    few, many = LettersDataset('train', num_samples=8), LettersDataset('train', num_samples=30)
    for index in range(8):
        assert np.array_equal(few[index]['img'], many[index]['img'])
        assert np.array_equal(few[index]['img'], render_letter('train', 32, 0, index)[0])


def test_seeds_and_splits_differ():
    base = render_letter('train', 32, 0, 3)[0]
    assert not np.array_equal(base, render_letter('train', 32, 1, 3)[0])
    assert not np.array_equal(base, render_letter('val', 32, 0, 3)[0])


def test_items_follow_the_conventions():
    dataset = DATASETS.build(
        {'type': 'mmext.LettersDataset', 'split': 'val', 'num_samples': 52, 'size': 24}
    )
    item = dataset[27]
    assert item['img'].shape == (24, 24, 3)
    assert item['img'].dtype == np.uint8
    assert item['gt_label'] == 1
    assert dataset.get_cat_ids(27) == [1]
    assert ''.join(dataset.CLASSES) == 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    assert np.bincount(dataset.get_gt_labels()).tolist() == [2] * 26


@pytest.mark.parametrize('split', ['train', 'val'])
def test_only_fonts_and_backgrounds_of_the_split_are_used(monkeypatch, split):
    seen = set()
    load, glyph = backgrounds.load_photos, rendering.glyph_from_font
    monkeypatch.setattr(
        backgrounds, 'load_photos', lambda photos, name: seen.add(name) or load(photos, name)
    )
    monkeypatch.setattr(
        letters.rendering,
        'glyph_from_font',
        lambda character, font: seen.add(font) or glyph(character, font),
    )
    LettersDataset(split, num_samples=200).full_init()
    assert seen == {split, *rendering.FONTS[split]}


def test_every_font_draws_26_different_letters():
    for split in ('train', 'val'):
        for font in rendering.FONTS[split]:
            shapes = {
                rendering.glyph_from_font(c, font).alpha.tobytes()
                for c in 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
            }
            assert len(shapes) == 26, font


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'split': 'test'}, 'split'),
        ({'split': 'train', 'size': 15}, 'size'),
        ({'split': 'train', 'num_samples': 0}, 'num_samples'),
        ({'split': 'train', 'seed': -1}, 'seed'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LettersDataset(**arguments)


def test_missing_files_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(rendering, 'package_dir', lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match='NoSuchFont.ttf'):
        rendering.glyph_from_font('A', 'NoSuchFont.ttf')
    backgrounds.load_photos.cache_clear()
    with pytest.raises(FileNotFoundError, match='camera.png'):
        backgrounds.load_photos('skimage', 'val')


def test_missing_package_names_the_extra():
    with pytest.raises(ImportError, match=r'mmext\[data\]'):
        rendering.package_dir('no_such_package_at_all')
