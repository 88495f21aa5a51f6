"""Write scikit-learn's handwritten digits as a folder of images for each class.

Example:
    python projects/dropin/mmpretrain_project/export_digits.py --out data/digits_folder
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits


def export(out: Path, every: int = 1) -> dict[str, int]:
    """Write train/ and val/, four fifths and one fifth of each class; returns their sizes.

    Args:
        out: Target folder.
        every: Take every so many images.
    """
    digits = load_digits()
    counts = {'train': 0, 'val': 0}
    for label in range(10):
        images = digits.images[digits.target == label][::every]
        for index, image in enumerate(images):
            split = 'val' if index % 5 == 4 else 'train'
            folder = out / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            # Values reach from 0 to 16.
            pixels = cv2.resize((image * 255 / 16).astype(np.uint8), (28, 28))
            cv2.imwrite(str(folder / f'{index:03d}.png'), pixels)
            counts[split] += 1
    return counts


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('data/digits_folder'))
    parser.add_argument('--every', type=int, default=1, help='take every so many images')
    args = parser.parse_args()
    print(args.out, export(args.out, args.every))


if __name__ == '__main__':
    main()
