"""MNIST and Fashion-MNIST as arrays, from the official IDX files."""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from mmext.datasets import catalog
from mmext.datasets.rendering import check_split

#: Set -> names of its classes, as MMPretrain spells them.
CLASSES: dict[str, tuple[str, ...]] = {
    'mnist': tuple('0123456789'),
    'fashion-mnist': (
        'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag',
        'Ankle boot',
    ),
}  # fmt: skip
#: One in so many training images belongs to the validation split: the last 5,000 of 60,000.
VAL_SHARE = 12


def read_idx(path: str | Path) -> np.ndarray:
    """Read an uncompressed IDX file of bytes.

    Returns:
        uint8 array of the shape in the file's head, read-only.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an IDX file of bytes, or is cut off.
    """
    content = Path(path).read_bytes()
    if len(content) < 4 or content[:3] != b'\0\0\x08':
        raise ValueError(f'{path} is not an IDX file of bytes')
    start = 4 + 4 * content[3]
    whole = len(content) >= start
    shape = np.frombuffer(content[4:start], '>u4').tolist() if whole else []
    if not whole or len(content) - start != math.prod(shape):
        raise ValueError(f'{path} has {len(content)} bytes, which is not what its head says')
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@lru_cache(maxsize=4)
def read_pair(
    name: str, part: str, data_root: str | Path = 'data'
) -> tuple[np.ndarray, np.ndarray]:
    """Read the images and labels of one official part.

    Args:
        name: 'mnist' or 'fashion-mnist'.
        part: 'train' (60,000 images) or 't10k' (10,000).
        data_root: Folder that holds ``mnist/`` and ``fashion-mnist/``.

    Returns:
        Images uint8 ``(n, 28, 28)`` and labels int64 ``(n,)``, both read-only.

    Raises:
        FileNotFoundError: The set is not there; the message names the command that prepares it.
        ValueError: A file is damaged.
    """
    if name not in CLASSES:
        raise ValueError(f'name must be one of {", ".join(CLASSES)}, got {name!r}')
    folder = Path(data_root) / name
    paths = [folder / f'{part}-images-idx3-ubyte', folder / f'{part}-labels-idx1-ubyte']
    if not all(path.is_file() for path in paths):
        raise FileNotFoundError(catalog.missing(folder))
    images, labels = (read_idx(path) for path in paths)
    if images.ndim != 3 or images.shape[:1] != labels.shape:
        raise ValueError(
            f'{folder}: images {images.shape} and labels {labels.shape} of {part} do not fit'
        )
    labels = labels.astype(np.int64)
    labels.setflags(write=False)
    return images, labels


def read_split(
    name: str, split: str, data_root: str | Path = 'data'
) -> tuple[np.ndarray, np.ndarray]:
    """Return one of three disjoint splits of a set.

    Args:
        name: 'mnist' or 'fashion-mnist'.
        split: 'train' (the first 55,000 training images), 'val' (the last 5,000 of them) or
            'test' (the official test set).
        data_root: As in :func:`read_pair`.

    Returns:
        As :func:`read_pair`.
    """
    check_split(split)
    images, labels = read_pair(name, 't10k' if split == 'test' else 'train', data_root)
    if split == 'test':
        return images, labels
    cut = len(labels) - len(labels) // VAL_SHARE
    return (images[:cut], labels[:cut]) if split == 'train' else (images[cut:], labels[cut:])
