"""CASIA-HWDB, handwritten Chinese characters, from the official .gnt files."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mmext.datasets.digits import LabelledImages
from mmext.datasets.glyphs import GB2312_LEVEL1
from mmext.registry import DATASETS

VERSIONS = ('1.0', '1.1')
SPLITS = {'train': 'trn', 'test': 'tst'}
CHARSETS = ('level1', 'all')
HOME = 'https://nlpr.ia.ac.cn/databases/handwriting/Home.html'
#: Size of the record, code of the character (GB), width and height; all little endian.
_HEADER = struct.Struct('<I2sHH')


class GntRecord(NamedTuple):
    """One character of a file: where its bitmap begins and how large it is."""

    character: str
    offset: int
    width: int
    height: int


def read_gnt(path: Path) -> Iterator[GntRecord]:
    """List the records of a .gnt file without reading the bitmaps.

    Raises:
        ValueError: The file is not in the official format or was cut off.
    """
    end = path.stat().st_size
    with open(path, 'rb') as file:
        place = 0
        while place < end:
            file.seek(place)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise ValueError(f'{path} ends within a record at byte {place}')
            size, code, width, height = _HEADER.unpack(header)
            if size != _HEADER.size + width * height or place + size > end:
                raise ValueError(
                    f'{path} is no .gnt file: record at byte {place} says {size} bytes for '
                    f'{width} x {height} pixels'
                )
            yield GntRecord(_character(code, path, place), place + _HEADER.size, width, height)
            place += size


@DATASETS.register_module()
class CASIAHWDBDataset(LabelledImages):
    """CASIA-HWDB 1.0 or 1.1: isolated handwritten Chinese characters of many writers.

    Reads the .gnt files as they are published, from ``<data_root>/HWDB1.0trn_gnt`` and the like.
    Bitmaps are read one by one. Items are ``{'img': uint8 (size, size, 1), 'gt_label': int,
    'sample_idx': int}``, the character centred, its aspect kept. The classes are those characters
    of the training files that are in ``charset``, in the order of their codes: of the 3,755 of
    GB 2312-80 level 1, HWDB1.0 has 3,740 and HWDB1.1 all.

    Args:
        data_root: Folder of the folders.
        split: 'train' or 'test'.
        version: '1.0' or '1.1'.
        charset: 'level1' leaves other characters (digits, letters, rare ones) out; 'all' does not.
        classes: The characters themselves, in the place of ``charset``.
        size: Height and width in pixels, >= 16.
        invert: Light on black, as ``mmext.GlyphDataset``; the files are dark on white.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: An argument is out of its range or a file is not in the official format.
        FileNotFoundError: A folder has no .gnt files; the message says where they are published.

    Cost: all headers are read at the start, some 1.3 million records of HWDB1.0 for training.

    Example:
        >>> dataset = dict(type='mmext.CASIAHWDBDataset', data_root='data/hwdb', split='train',
        ...                version='1.0', size=64, pipeline=[dict(type='mmext.PackGANInputs')])
    """

    def __init__(
        self,
        data_root: str,
        split: str,
        version: str = '1.0',
        charset: str = 'level1',
        classes: Sequence[str] | None = None,
        size: int = 64,
        invert: bool = True,
        pipeline: Sequence[Any] = (),
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, known in (
            ('split', split, tuple(SPLITS)),
            ('version', version, VERSIONS),
            ('charset', charset, CHARSETS),
        ):
            if value not in known:
                raise ValueError(f'{name}={value!r} must be one of {", ".join(known)}')
        if size < 16:
            raise ValueError(f'size must be at least 16 pixels, got {size}')
        self.split = split
        self.version = version
        self.size = size
        self.invert = invert
        self._records: dict[str, list[tuple[str, GntRecord]]] = {}
        root = Path(data_root)
        if classes is None:
            found = {record.character for _, record in self._all(root, 'train')}
            wanted = set(GB2312_LEVEL1) if charset == 'level1' else found
            classes = sorted(found & wanted, key=lambda character: character.encode('gbk'))
        metainfo = {**(metainfo or {}), 'classes': tuple(classes)}
        super().__init__(data_root=data_root, pipeline=list(pipeline), metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return where each character of the classes is, and its label."""
        label = {character: i for i, character in enumerate(self.metainfo['classes'])}
        items = [
            {
                'gnt': path,
                'place': (record.offset, record.width, record.height),
                'gt_label': label[record.character],
            }
            for path, record in self._all(Path(self.data_root), self.split)
            if record.character in label
        ]
        self._records.clear()
        return items

    def get_data_info(self, idx: int) -> dict:
        """Read one bitmap."""
        info = super().get_data_info(idx)
        offset, width, height = info.pop('place')
        raw = np.fromfile(info.pop('gnt'), np.uint8, count=width * height, offset=offset)
        bitmap = raw.reshape(height, width)
        info['img'] = centred(255 - bitmap, self.size)[..., None]
        if not self.invert:
            info['img'] = 255 - info['img']
        return info

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of all samples, int64 (n,), without reading bitmaps."""
        infos = (super(CASIAHWDBDataset, self).get_data_info(i) for i in range(len(self)))
        return np.array([info['gt_label'] for info in infos], np.int64)

    def _all(self, root: Path, split: str) -> list[tuple[str, GntRecord]]:
        if split not in self._records:
            folder = root / f'HWDB{self.version}{SPLITS[split]}_gnt'
            files = sorted(folder.glob('*.gnt'))
            if not files:
                raise FileNotFoundError(
                    f'{folder} has no .gnt files; HWDB{self.version}{SPLITS[split]}_gnt is '
                    f'published at {HOME}'
                )
            self._records[split] = [(str(file), r) for file in files for r in read_gnt(file)]
        return self._records[split]


def centred(ink: np.ndarray, size: int) -> np.ndarray:
    """Fit light ink uint8 (h, w) into the middle of a black square, a sixteenth free around it."""
    height, width = ink.shape
    scale = size * 7 / 8 / max(height, width)
    small = max(round(width * scale), 1), max(round(height * scale), 1)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted = cv2.resize(ink, small, interpolation=how)
    canvas = np.zeros((size, size), np.uint8)
    y, x = (size - small[1]) // 2, (size - small[0]) // 2
    canvas[y : y + small[1], x : x + small[0]] = fitted
    return canvas


def _character(code: bytes, path: Path, place: int) -> str:
    try:
        # ASCII characters fill the second byte with 0.
        return code.rstrip(b'\0').decode('gbk')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: the code {code.hex()} at byte {place} is not GB') from error
