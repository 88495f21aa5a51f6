"""What the scenes show: handwritten digits, or the digits and garments of (Fashion-)MNIST."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmext.datasets import idx, rendering
from mmext.datasets.digits import handwritten_digits


@dataclass(frozen=True)
class ObjectSource:
    """One kind of objects.

    Args:
        title: Name of the scenes in files and messages.
        supercategory: COCO's word for all classes.
        classes: Names of the classes, by label.
        to_glyph: Function that makes an image ready for drawing.
        max_cover: Largest share of the smaller of two boxes that may be covered.
        max_strokes: Most distractor strokes of a scene; garments need none on cluttered photos.
    """

    title: str
    supercategory: str
    classes: tuple[str, ...]
    to_glyph: Callable[[np.ndarray], rendering.Glyph]
    max_cover: float = 0.15
    max_strokes: int = 3

    @property
    def categories(self) -> list[dict]:
        """COCO's list of categories; ids count from 1."""
        return [
            {'id': number + 1, 'name': name, 'supercategory': self.supercategory}
            for number, name in enumerate(self.classes)
        ]


OBJECTS: dict[str, ObjectSource] = {
    'digits': ObjectSource(
        'digit scenes',
        'digit',
        idx.CLASSES['mnist'],
        rendering.glyph_from_digit,
        max_cover=rendering.MAX_COVER,
    ),
    'mnist': ObjectSource('MNIST scenes', 'digit', idx.CLASSES['mnist'], rendering.glyph_from_grey),
    'fashion-mnist': ObjectSource(
        'Fashion-MNIST scenes',
        'garment',
        idx.CLASSES['fashion-mnist'],
        rendering.garment_from_grey,
        max_strokes=0,
    ),
}


def load_objects(
    objects: str, split: str, data_root: str | Path = 'data'
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of one split; the splits share none.

    Args:
        objects: 'digits' (scikit-learn's), 'mnist' or 'fashion-mnist'.
        split: 'train', 'val' or 'test', see :func:`mmext.datasets.digits.handwritten_digits` and
            :func:`mmext.datasets.idx.read_split`.
        data_root: Folder that holds ``mnist/`` and ``fashion-mnist/``.

    Returns:
        Images ``(n, h, w)`` and labels int64 ``(n,)``.

    Raises:
        ImportError: scikit-learn is not installed, for 'digits'.
        FileNotFoundError: The set is not there; the message names the command that prepares it.
    """
    if objects == 'digits':
        return handwritten_digits(split)
    return idx.read_split(objects, split, data_root)
