"""MNIST-M: MNIST digits blended with photos, the target domain of Ganin et al. 2016."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmext.datasets import backgrounds, idx
from mmext.datasets.array_images import write_arrays

#: Margin around the 28 pixels of a digit, to the 32 of the usual networks for small images.
PAD = 2
SEED = 2016


def blend_digits(
    digits: np.ndarray, photos: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Blend each digit with a random crop of a random photo: ``|digit - crop|`` per channel.

    Where there is no ink the photo shows, where there is it is inverted.

    Args:
        digits: Grey uint8 ``(n, h, w)``.
        photos: uint8 ``(H, W, 3)``, each at least as large as a digit; their order of channels is
            that of the result.
        rng: Source of all randomness.

    Returns:
        uint8 ``(n, h, w, 3)``. About 30 us an image of 32 pixels.

    Reference: Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
    arXiv:1505.07818, the experiment "MNIST -> MNIST-M".
    """
    count, height, width = digits.shape
    crops = np.empty((count, height, width, 3), np.uint8)
    for i, which in enumerate(rng.integers(len(photos), size=count)):
        photo = photos[which]
        y = rng.integers(photo.shape[0] - height + 1)
        x = rng.integers(photo.shape[1] - width + 1)
        crops[i] = photo[y : y + height, x : x + width]
    ink = digits[..., None]
    return np.maximum(crops, ink) - np.minimum(crops, ink)


def make(root: Path, out: Path) -> None:
    """Write MNIST-M for :class:`mmext.datasets.array_images.ArrayImages`.

    All 60,000 + 10,000 digits in the order of MNIST, with the grey levels they have (not made
    black and white first, as some regenerations do), padded from 28 to 32 pixels without
    interpolation. Training digits lie on the training photos of BSDS500 and test digits on its
    test photos, so that no photo is in both. The authors' archive is another draw, of photos that
    are not named: results on this one are of "MNIST-M (regenerated)". Takes 4 s and 216 MB.

    Args:
        root: Folder that holds ``mnist/`` and ``bsds500/``.
        out: Folder to write, which does not exist.

    Raises:
        FileNotFoundError: MNIST or BSDS500 is missing.
    """
    parts = {}
    for number, (part, official) in enumerate((('train', 'train'), ('test', 't10k'))):
        digits, labels = idx.read_pair('mnist', official, root)
        digits = np.pad(digits, ((0, 0), (PAD, PAD), (PAD, PAD)))
        photos = [photo[..., ::-1] for photo in backgrounds.load_photos('bsds500', part, root)]
        parts[part] = blend_digits(digits, photos, np.random.default_rng([SEED, number])), labels
    write_arrays(out, parts, idx.CLASSES['mnist'])
