"""Tiny data sets in the official formats: IDX files and a folder of photos."""

import struct
from pathlib import Path

import cv2
import numpy as np


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write bytes in the format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_pairs(folder: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    """Write the four files of MNIST for the parts 'train' and 't10k'."""
    for part in ('train', 't10k'):
        write_idx(folder / f'{part}-images-idx3-ubyte', images[part])
        write_idx(folder / f'{part}-labels-idx1-ubyte', labels[part])


def garments(count: int, seed: int) -> np.ndarray:
    """Grey blocks of 20 x 14 pixels with a smooth texture, uint8 (count, 28, 28)."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    for image in images:
        corners = rng.integers(80, 256, (2, 2)).astype(np.uint8)
        image[4:24, 7:21] = cv2.resize(corners, (14, 20), interpolation=cv2.INTER_LINEAR)
    return images


def write_sets(root: Path) -> None:
    """Write both IDX sets and BSDS500 so that everything of a split can be told from the others.

    Labels 0-3 are in the training split (44 images), 4-6 in that of validation (the last 4 of 48)
    and 7-9 in the test split (12). All photos of a split are of one colour: blue, green, red.
    """
    train = np.r_[np.arange(44) % 4, [4, 5, 6, 4]]
    labels = {'train': train, 't10k': 7 + np.arange(12) % 3}
    images = {'train': garments(48, 0), 't10k': garments(12, 1)}
    for name in ('mnist', 'fashion-mnist'):
        write_pairs(root / name, images, labels)
    for channel, split in enumerate(('train', 'val', 'test')):
        folder = root / 'bsds500' / 'images' / split
        folder.mkdir(parents=True)
        photo = np.zeros((321, 481, 3), np.uint8)
        photo[..., channel] = 200
        for number in range(2):
            cv2.imwrite(str(folder / f'{split}{number}.jpg'), photo)
