"""Image classification data in a few NumPy files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmext.datasets import catalog, rendering
from mmext.datasets.digits import LabelledImages
from mmext.datasets.idx import VAL_SHARE
from mmext.registry import DATASETS


@DATASETS.register_module()
class ArrayImages(LabelledImages):
    """Images of one size from ``<part>_images.npy`` and ``<part>_labels.npy``.

    The format of our MNIST-M and coloured Fashion-MNIST: uint8 (n, H, W, 3) in RGB and int64 (n,),
    for the parts ``train`` and ``test``, and ``classes.json`` with the names. Items are ``{'img':
    uint8 (H, W, 3) BGR, 'gt_label': int, 'sample_idx': int}``. The images are mapped from the file,
    so workers share them and only what is asked for is read. About 10 us an image.

    Args:
        data_root: Folder of the files.
        split: 'train' (all but the last twelfth of the training part), 'val' (the last twelfth) or
            'test'; or 'train+val' for the whole training part.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: Unknown split, or a file is not in the format.
        FileNotFoundError: A file is missing; the message names the command that prepares the set.

    Example:
        >>> dataset = dict(type='mmext.ArrayImages', data_root='data/mnist_m', split='train',
        ...                pipeline=[dict(type='PackInputs')])
    """

    def __init__(
        self, data_root: str, split: str, pipeline: Sequence[Any] = (), **kwargs: Any
    ) -> None:
        rendering.check_split(split, (*rendering.SPLITS, 'train+val'))
        self.split = split
        folder = Path(data_root)
        part = 'test' if split == 'test' else 'train'
        paths = [folder / f'{part}_{what}.npy' for what in ('images', 'labels')]
        for path in (*paths, folder / 'classes.json'):
            if not path.is_file():
                raise FileNotFoundError(catalog.missing(path))
        images = np.load(paths[0], mmap_mode='r', allow_pickle=False)
        labels = np.load(paths[1], allow_pickle=False)
        fits = images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8
        if not fits or labels.shape != images.shape[:1]:
            raise ValueError(
                f'{paths[0]} has {images.dtype} {images.shape} and labels {labels.shape}; '
                'expected uint8 (n, H, W, 3) and (n,)'
            )
        cut = len(labels) - len(labels) // VAL_SHARE
        wanted = {'train': slice(cut), 'val': slice(cut, None)}.get(split, slice(None))
        self.images, self.labels = images[wanted], labels[wanted]
        metainfo = {'classes': tuple(json.loads((folder / 'classes.json').read_text()))}
        super().__init__(data_root=data_root, metainfo=metainfo, pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return the number and label of every image."""
        return [
            {'number': number, 'gt_label': int(label)} for number, label in enumerate(self.labels)
        ]

    def get_data_info(self, idx: int) -> dict:
        """Return one item, with its pixels."""
        item = super().get_data_info(idx)
        # BGR, as MMPretrain's loaders give; its preprocessors turn it to RGB.
        item['img'] = np.ascontiguousarray(self.images[item.pop('number'), ..., ::-1])
        return item


def write_arrays(
    folder: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]], classes: Sequence[str]
) -> None:
    """Write the files that :class:`ArrayImages` reads.

    Args:
        folder: Target, made here; it must not exist.
        parts: 'train' and 'test' -> images uint8 ``(n, H, W, 3)`` RGB and labels ``(n,)``.
        classes: Names of the classes.

    Raises:
        FileExistsError: ``folder`` is there.
    """
    folder.mkdir(parents=True)
    for part, (images, labels) in parts.items():
        np.save(folder / f'{part}_images.npy', images, allow_pickle=False)
        np.save(folder / f'{part}_labels.npy', labels.astype(np.int64), allow_pickle=False)
    (folder / 'classes.json').write_text(json.dumps(list(classes)) + '\n')
