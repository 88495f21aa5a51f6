"""Coloured Fashion-MNIST: a shifted domain with the classes and shapes of Fashion-MNIST (ours)."""

from pathlib import Path

import numpy as np

from mmext.datasets import idx
from mmext.datasets.array_images import write_arrays

#: Margin around the 28 pixels of a garment.
PAD = 2
SEED = 2017
#: Least difference in luminance between a garment's colour and all of its ground, in grey levels;
#: without it some garments could not be seen.
MIN_CONTRAST = 40.0

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_CHUNK = 5000


def colour_garments(garments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put each garment in a colour of its own on a ground that runs from one colour to another.

    The ground is a linear ramp between two random colours in a random direction. A pixel of grey
    level g in [0, 1] has the opacity ``min(5 g, 1)`` and the garment's colour times
    ``0.4 + 0.6 g``, so the texture stays. The colour is brighter than all of the ground or darker
    than all of it, by :data:`MIN_CONTRAST`; light garments on black show only one of these.

    Args:
        garments: Grey uint8 ``(n, h, w)`` on black.
        rng: Source of all randomness.

    Returns:
        RGB uint8 ``(n, h, w, 3)``. About 70 us an image of 32 pixels.
    """
    count, height, width = garments.shape
    grey = garments[..., None].astype(np.float32) / 255
    ends, colours = _draw_colours(rng, count)
    angle = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = np.cos(angle)[:, None, None] * (x / (width - 1) - 0.5) + np.sin(angle)[
        :, None, None
    ] * (y / (height - 1) - 0.5)
    # Half the diagonal of the unit square is the farthest that a corner can lie.
    share = (along / np.float32(np.sqrt(2)) + 0.5)[..., None]
    start, end = ends[:, 0, None, None], ends[:, 1, None, None]
    ground = start + share * (end - start)
    cloth = colours[:, None, None] * (0.4 + 0.6 * grey)
    image = ground + np.minimum(5 * grey, 1) * (cloth - ground)
    return np.round(image).astype(np.uint8)


def _draw_colours(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw both ends of each ground, (n, 2, 3), and each garment's colour, (n, 3), all float32."""
    ends = rng.uniform(0, 255, (count, 2, 3)).astype(np.float32)
    colours = rng.uniform(0, 255, (count, 3)).astype(np.float32)
    while True:
        contrast = (ends - colours[:, None]) @ _LUMINANCE
        seen = (contrast.min(1) >= MIN_CONTRAST) | (contrast.max(1) <= -MIN_CONTRAST)
        again = np.flatnonzero(~seen)
        if not again.size:
            return ends, colours
        ends[again] = rng.uniform(0, 255, (len(again), 2, 3))
        colours[again] = rng.uniform(0, 255, (len(again), 3))


def make(root: Path, out: Path) -> None:
    """Write coloured Fashion-MNIST for :class:`mmext.datasets.array_images.ArrayImages`.

    All 60,000 + 10,000 garments in the order of Fashion-MNIST, padded from 28 to 32 pixels. Takes
    5 s and 216 MB.

    Args:
        root: Folder that holds ``fashion-mnist/``.
        out: Folder to write, which does not exist.

    Raises:
        FileNotFoundError: Fashion-MNIST is missing.
    """
    parts = {}
    for number, (part, official) in enumerate((('train', 'train'), ('test', 't10k'))):
        garments, labels = idx.read_pair('fashion-mnist', official, root)
        garments = np.pad(garments, ((0, 0), (PAD, PAD), (PAD, PAD)))
        rng = np.random.default_rng([SEED, number])
        # In chunks, since a ramp of 60,000 images in float32 would take 740 MB.
        chunks = [
            colour_garments(garments[first : first + _CHUNK], rng)
            for first in range(0, len(garments), _CHUNK)
        ]
        parts[part] = np.concatenate(chunks), labels
    write_arrays(out, parts, idx.CLASSES['fashion-mnist'])
