"""Glyphs: the alphabets, determinism, fonts of their own for each split, clear errors."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from mmext.datasets import glyphs, rendering
from mmext.datasets.glyphs import FONTS, GB2312_LEVEL1, SYMBOLS, GlyphDataset, Masters, draw_glyph
from mmext.registry import DATASETS


def test_gb2312_order_is_that_of_the_standard():
    assert len(GB2312_LEVEL1) == len(set(GB2312_LEVEL1)) == 3755
    # Row 16 starts level 1, cell 89 of row 55 ends it.
    assert GB2312_LEVEL1[0] == '啊' and GB2312_LEVEL1[-1] == '座'
    for index in (0, 93, 94, 2000, 3754):
        row, cell = divmod(index, 94)
        assert GB2312_LEVEL1[index].encode('gb2312') == bytes([0xB0 + row, 0xA1 + cell])


def test_every_symbol_is_in_several_fonts_of_train_and_in_fonts_of_val_and_test():
    assert len(SYMBOLS) == len(set(SYMBOLS)) >= 200
    for split, least in (('train', 5), ('val', 1), ('test', 2)):
        masters = Masters(SYMBOLS, FONTS['symbols'][split], 24)
        assert min(len(names) for names in masters.fonts.values()) >= least, split


def test_no_symbol_is_drawn_like_another():
    """Same ink in one font means that nobody could tell two classes apart."""
    masters = Masters(SYMBOLS, FONTS['symbols']['train'], 32)
    for font in FONTS['symbols']['train']:
        drawn = {}
        for character in SYMBOLS:
            if font in masters.fonts[character]:
                ink = masters.ink(character, font)
                drawn.setdefault((ink.shape, ink.tobytes()), []).append(character)
        assert [same for same in drawn.values() if len(same) > 1] == [], font


def test_scripts_share_no_look_alikes():
    for same in ('AΑА', 'BΒВ', 'EΕЕ', 'HΗН', 'OΟО0o', 'PΡР', 'Xx', 'Vv', 'ΠП', 'Il1'):
        assert sum(character in SYMBOLS for character in same) <= 1, same


def test_fonts_of_splits_are_disjoint():
    for fonts in FONTS.values():
        for one, other in combinations(fonts.values(), 2):
            assert not set(one) & set(other)


@pytest.mark.parametrize('fonts', [None, 'all', ['DejaVuSans.ttf', 'STIXGeneral.ttf']])
def test_only_the_fonts_asked_for_are_used(monkeypatch, fonts):
    seen, ink = set(), Masters.ink
    monkeypatch.setattr(Masters, 'ink', lambda self, c, font: seen.add(font) or ink(self, c, font))
    GlyphDataset('test', classes=26, fonts=fonts, num_samples=400)
    every = {name for part in FONTS['symbols'].values() for name in part}
    expected = {None: set(FONTS['symbols']['test']), 'all': every}
    assert seen == (expected[fonts] if not isinstance(fonts, list) else set(fonts))


def test_samples_depend_on_seed_split_and_index_alone():
    few, many = (GlyphDataset('train', classes=9, num_samples=n) for n in (12, 30))
    for index in range(12):
        assert np.array_equal(few[index]['img'], many[index]['img'])
    for other in (
        GlyphDataset('train', classes=9, num_samples=12, seed=1),
        GlyphDataset('val', classes=9, num_samples=12, fonts=list(few.fonts)),
    ):
        assert all(not np.array_equal(few[i]['img'], other[i]['img']) for i in range(12))
    images = [item['img'].tobytes() for item in many]
    assert len(set(images)) == len(images)


def test_items_follow_the_conventions():
    dataset = DATASETS.build(
        {'type': 'mmext.GlyphDataset', 'split': 'val', 'classes': 'ΞЖ∞', 'size': 24,
         'channels': 3, 'num_samples': 10}
    )  # fmt: skip
    item = dataset[5]
    assert item['img'].shape == (24, 24, 3) and item['img'].dtype == np.uint8
    assert (item['img'] == item['img'][..., :1]).all()
    assert item['gt_label'] == 2 and dataset.get_cat_ids(5) == [2]
    assert dataset.CLASSES == ('Ξ', 'Ж', '∞')
    assert dataset.get_gt_labels().tolist() == [0, 1, 2] * 3 + [0]
    assert tuple(SYMBOLS[:30]) == GlyphDataset('val', classes=30, num_samples=1).CLASSES


def test_geometry_keeps_the_ink_inside_on_black():
    ink = np.full((40, 25), 255, np.uint8)
    tops, sides, shares = [], [], []
    for seed in range(300):
        image = draw_glyph(np.random.default_rng(seed), ink, 64)
        assert not (image[[0, -1]].any() or image[:, [0, -1]].any())
        y, x = np.nonzero(image > image.max() / 2)
        tops.append(y.min())
        sides.append(max(np.ptp(y), np.ptp(x)) + 1)
        shares.append(image.max())
    assert 0.65 * 64 < min(sides) < 0.72 * 64 and 0.84 * 64 < max(sides) < 0.94 * 64
    assert max(tops) - min(tops) > 10
    assert 0.68 * 255 < min(shares) < 0.72 * 255 and max(shares) >= 253


def test_strokes_vary_in_width():
    bar = np.zeros((60, 60), np.uint8)
    bar[:, 27:33] = 255
    bar[[0, -1]] = 255
    ink = []
    for seed in range(100):
        image = draw_glyph(np.random.default_rng(seed), bar, 64)
        length = np.ptp(np.nonzero(image > image.max() / 2)[0]) + 1
        ink.append((image > image.max() / 2)[24:40].sum() / 16 / length)
    assert max(ink) / min(ink) > 1.3


def test_held_out_fonts_are_recognisable():
    def data(split, count):
        dataset = GlyphDataset(split, classes=50, size=16, num_samples=count)
        images = np.stack([dataset[i]['img'].ravel() for i in range(count)]).astype(np.float32)
        return images / np.linalg.norm(images, axis=1, keepdims=True), dataset.get_gt_labels()

    known, labels = data('train', 3000)
    asked, truth = data('test', 200)
    accuracy = (labels[(asked @ known.T).argmax(1)] == truth).mean()
    assert accuracy > 0.5  # chance is 0.02


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'split': 'all'}, 'split'),
        ({'alphabet': 'kanji'}, 'alphabet'),
        ({'size': 15}, 'size'),
        ({'channels': 2}, 'channels'),
        ({'num_samples': 0}, 'num_samples'),
        ({'classes': 0}, r'classes=0 must be in 1\.\.331'),
        ({'classes': 332}, 'classes=332'),
        ({'classes': ''}, 'single characters'),
        ({'classes': ['ab']}, 'single characters'),
        ({'classes': 'aba'}, "'a' more than once"),
        ({'classes': '啊'}, "'啊' are in none.*gb2312"),
        ({'fonts': 'DejaVuSans.ttf'}, 'list of names'),
        ({'fonts': []}, 'list of names'),
        ({'fonts': ['Arial']}, 'Arial.*unknown; there are'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GlyphDataset(**{'split': 'train', 'num_samples': 1, **arguments})


def test_missing_fonts_name_their_debian_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(glyphs, 'DEBIAN_FONTS', tmp_path)
    with pytest.raises(FileNotFoundError, match='install fonts-arphic-uming fonts-wqy-microhei'):
        GlyphDataset('test', alphabet='gb2312')
    monkeypatch.setattr(rendering, 'package_dir', lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match='DejaVuSans.ttf.*reinstall matplotlib'):
        GlyphDataset('train')


@pytest.mark.parametrize('font', sorted(glyphs.CJK_FONTS))
def test_installed_cjk_fonts_have_all_characters(font):
    if not (glyphs.DEBIAN_FONTS / glyphs.CJK_FONTS[font].path).is_file():
        pytest.skip(f'needs the Debian package {glyphs.CJK_FONTS[font].package}')
    masters = Masters(GB2312_LEVEL1, [font], 24)
    drawn = {masters.ink(character, font).tobytes() for character in GB2312_LEVEL1[:300]}
    assert len(drawn) == 300
    dataset = GlyphDataset('train', classes=5, alphabet='gb2312', fonts=[font], num_samples=5)
    assert min(item['img'].max() for item in dataset) > 150


def test_gb2312_classes_come_with_any_font_that_has_them(monkeypatch):
    """The path of Chinese characters without a Chinese font: DejaVu Sans stands in for each."""
    shipped = rendering.package_dir('matplotlib') / 'mpl-data/fonts/ttf'
    stand_in = {
        name: font._replace(path=str(shipped / 'DejaVuSans.ttf'), face=0)
        for name, font in glyphs.CJK_FONTS.items()
    }
    monkeypatch.setattr(glyphs, 'CJK_FONTS', stand_in)
    monkeypatch.setattr(glyphs, 'DEBIAN_FONTS', Path('/'))
    dataset = GlyphDataset('val', classes='AB', alphabet='gb2312', num_samples=4)
    assert dataset.fonts == ('NotoSerifCJK-Regular',) and len(dataset) == 4
    with pytest.raises(ValueError, match='are in none of the fonts'):
        GlyphDataset('val', alphabet='gb2312', num_samples=4)
