"""CASIA-HWDB, from tiny files in the official format."""

import struct

import numpy as np
import pytest

from mmext.datasets.casia_hwdb import CASIAHWDBDataset, centred, read_gnt


def write_gnt(path, records):
    """As published: size, GB code, width, height (little endian), bitmap by rows, 255 is paper."""
    path.parent.mkdir(exist_ok=True)
    with open(path, 'wb') as file:
        for character, bitmap in records:
            height, width = bitmap.shape
            code = character.encode('gbk').ljust(2, b'\0')
            file.write(struct.pack('<I2sHH', 10 + bitmap.size, code, width, height))
            file.write(bitmap.tobytes())


def bitmap(height, width, level=0):
    image = np.full((height, width), 255, np.uint8)
    image[height // 4 : height // 2, width // 4 :] = level
    return image


@pytest.fixture
def hwdb(tmp_path):
    """Two writers of training, one of test; 'A' and a character of level 2 besides level 1."""
    train = tmp_path / 'HWDB1.0trn_gnt'
    write_gnt(train / '001.gnt', [('啊', bitmap(40, 60)), ('A', bitmap(30, 30))])
    write_gnt(train / '002.gnt', [('丁', bitmap(70, 50)), ('啊', bitmap(20, 20)),
                                  ('亍', bitmap(20, 20))])  # fmt: skip
    write_gnt(tmp_path / 'HWDB1.0tst_gnt/003.gnt', [('丁', bitmap(33, 21)), ('把', bitmap(9, 9))])
    return tmp_path


def test_records_of_a_file(hwdb):
    records = list(read_gnt(hwdb / 'HWDB1.0trn_gnt/001.gnt'))
    assert [(r.character, r.width, r.height, r.offset) for r in records] == [
        ('啊', 60, 40, 10), ('A', 30, 30, 10 + 2400 + 10)
    ]  # fmt: skip


def test_classes_are_the_level_1_characters_of_the_training_files(hwdb):
    train = CASIAHWDBDataset(str(hwdb), 'train', size=32)
    assert train.CLASSES == ('啊', '丁'), 'in the order of their codes'
    assert train.get_gt_labels().tolist() == [0, 1, 0]
    test = CASIAHWDBDataset(str(hwdb), 'test', size=32)
    assert test.CLASSES == train.CLASSES and test.get_gt_labels().tolist() == [1]
    everything = CASIAHWDBDataset(str(hwdb), 'train', charset='all', size=32)
    assert everything.CLASSES == ('A', '啊', '丁', '亍')
    assert CASIAHWDBDataset(str(hwdb), 'train', classes='丁', size=32).get_gt_labels().tolist() == [
        0
    ]


def test_bitmaps_are_light_on_black_and_centred(hwdb):
    dataset = CASIAHWDBDataset(str(hwdb), 'train', size=32)
    image = dataset[0]['img']
    assert image.shape == (32, 32, 1) and image.dtype == np.uint8
    # 60 x 40 ink becomes 28 x 19 in the middle.
    assert np.array_equal(image[..., 0], centred(255 - bitmap(40, 60), 32))
    assert image[:2].max() == image[-2:].max() == 0
    rows = np.flatnonzero(image[..., 0].max(1) > 128)
    assert rows.min() >= 6 + 4 and rows.max() <= 6 + 10
    dark = CASIAHWDBDataset(str(hwdb), 'train', size=32, invert=False)
    assert np.array_equal(dark[0]['img'], 255 - image)


def test_what_is_wrong(hwdb, tmp_path):
    with pytest.raises(ValueError, match='version='):
        CASIAHWDBDataset(str(hwdb), 'train', version='1.2')
    with pytest.raises(ValueError, match='at least 16'):
        CASIAHWDBDataset(str(hwdb), 'train', size=8)
    with pytest.raises(FileNotFoundError, match='HWDB1.1trn_gnt.*published'):
        CASIAHWDBDataset(str(hwdb), 'train', version='1.1')
    path = hwdb / 'HWDB1.0trn_gnt/001.gnt'
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match='no .gnt file: record at byte 2410'):
        CASIAHWDBDataset(str(hwdb), 'train')
    path.write_bytes(whole + b'123')
    with pytest.raises(ValueError, match='ends within a record'):
        CASIAHWDBDataset(str(hwdb), 'train')
    path.write_bytes(struct.pack('<I2sHH', 11, b'\xff\xff', 1, 1) + b'0')
    with pytest.raises(ValueError, match='is not GB'):
        CASIAHWDBDataset(str(hwdb), 'train')
