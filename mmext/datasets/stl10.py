"""STL-10 from the official binary files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmext.datasets.digits import LabelledImages
from mmext.registry import DATASETS

SPLITS = ('train', 'test', 'unlabeled')
HOME = 'https://cs.stanford.edu/~acoates/stl10/'
_SHAPE = (3, 96, 96)


@DATASETS.register_module()
class STL10Dataset(LabelledImages):
    """STL-10: 5,000 training, 8,000 test and 100,000 unlabelled images of 96 x 96 pixels.

    Reads ``train_X.bin``, ``train_y.bin``, ``test_X.bin``, ``test_y.bin`` and ``unlabeled_X.bin``
    as they are published, image by image. Items are ``{'img': uint8 (96, 96, 3) BGR, 'gt_label':
    int in 0..9, 'sample_idx': int}``; unlabelled ones have the label 0 and the set then has one
    class, for GANs without classes. Nothing is downloaded.

    Args:
        data_root: Folder of the files.
        split: 'train', 'test', 'unlabeled' or 'train+unlabeled', whose labels are all 0.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: Unknown split, or a file that is not in the official format.
        FileNotFoundError: A file is missing; the message says where it is published.

    Example:
        >>> dataset = dict(type='mmext.STL10Dataset', data_root='data/stl10_binary', split='train',
        ...                pipeline=[dict(type='mmext.PackGANInputs')])
    """

    CLASSES_10: ClassVar[tuple[str, ...]] = (
        'airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck',
    )  # fmt: skip

    def __init__(
        self,
        data_root: str,
        split: str,
        pipeline: Sequence[Any] = (),
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        parts = split.split('+')
        if any(part not in SPLITS for part in parts) or len(set(parts)) != len(parts):
            raise ValueError(
                f'split={split!r} must be of {", ".join(SPLITS)}, or several joined by +'
            )
        self.split = split
        classes = ('any',) if 'unlabeled' in parts else self.CLASSES_10
        metainfo = {'classes': classes, **(metainfo or {})}
        super().__init__(data_root=data_root, pipeline=list(pipeline), metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return where each image is, and its label."""
        items = []
        parts = self.split.split('+')
        for part in parts:
            path = _existing(Path(self.data_root) / f'{part}_X.bin')
            count, rest = divmod(path.stat().st_size, int(np.prod(_SHAPE)))
            if rest:
                raise ValueError(f'{path} is no file of STL-10: its size is no multiple of 27,648')
            labels = np.zeros(count, np.int64)
            if 'unlabeled' not in parts:
                labels = _read_labels(Path(self.data_root) / f'{part}_y.bin', count)
            items += [
                {'part': part, 'number': number, 'gt_label': int(label)}
                for number, label in enumerate(labels)
            ]
        return items

    def get_data_info(self, idx: int) -> dict:
        """Read one image."""
        info = super().get_data_info(idx)
        path = Path(self.data_root) / f'{info.pop("part")}_X.bin'
        size = int(np.prod(_SHAPE))
        raw = np.fromfile(path, np.uint8, count=size, offset=info.pop('number') * size)
        # Stored by channel, then by column; BGR, as MMPretrain's loaders give.
        info['img'] = np.ascontiguousarray(raw.reshape(_SHAPE).transpose(2, 1, 0)[..., ::-1])
        return info

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of all samples, int64 (n,), without reading images."""
        infos = (super(STL10Dataset, self).get_data_info(i) for i in range(len(self)))
        return np.array([info['gt_label'] for info in infos], np.int64)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} does not exist; it is in stl10_binary.tar.gz, published at {HOME}'
        )
    return path


def _read_labels(path: Path, count: int) -> np.ndarray:
    labels = np.fromfile(_existing(path), np.uint8).astype(np.int64)
    if len(labels) != count or not ((labels >= 1) & (labels <= 10)).all():
        raise ValueError(f'{path} must hold {count} labels in 1..10, one byte each')
    return labels - 1
