"""Ten digit classes, handwritten (scikit-learn) or rendered from fonts (matplotlib)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
from mmengine.dataset import BaseDataset

from mmext.datasets import rendering
from mmext.registry import DATASETS

SOURCES = ('handwritten', 'fontdigits')

# Part of the benchmark's definition, not a setting: results on different splits do not compare.
_SPLIT_SEED = 20240


@lru_cache(maxsize=len(rendering.SPLITS))
def handwritten_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one split of scikit-learn's 1,797 handwritten digits.

    Each class is shuffled with a fixed seed and cut 60/20/20; all 1,797 images differ, so no
    image of one split occurs in another.

    Args:
        split: 'train' (1,078 images), 'val' (360) or 'test' (359).

    Returns:
        Images float64 ``(n, 8, 8)`` with values 0..16, and labels int64 ``(n,)``, both in the
        order of scikit-learn and read-only.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    rendering.check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "handwritten digits need scikit-learn: pip install 'mmext[data]'", name='sklearn'
        ) from error
    digits = load_digits()
    part = rendering.SPLITS.index(split)
    rng = np.random.default_rng(_SPLIT_SEED)
    chosen = []
    for label in range(10):
        members = rng.permutation(np.flatnonzero(digits.target == label))
        cuts = np.round(np.array([0.6, 0.8]) * len(members)).astype(int)
        chosen.append(np.split(members, cuts)[part])
    order = np.sort(np.concatenate(chosen))
    images, labels = digits.images[order], digits.target[order].astype(np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


def render_font_digit(split: str, size: int, seed: int, index: int) -> tuple[np.ndarray, int]:
    """Render digit number ``index`` of a split, light on black, with jitter.

    Font, rotation (up to 12 degrees), height (0.65 to 0.95 of the image), place and blur are
    random; the class is ``index % 10``. The result depends on the arguments alone.

    Returns:
        Grey image uint8 ``(size, size)`` and label.
    """
    rng = np.random.default_rng([seed, rendering.SPLITS.index(split), index])
    label = index % 10
    fonts = rendering.FONTS[split]
    glyph = rendering.glyph_from_font(str(label), fonts[rng.integers(len(fonts))])
    side = rng.uniform(0.65, 0.95) * size - 1
    angle = rng.uniform(-rendering.MAX_ANGLE, rendering.MAX_ANGLE)
    patch, box = rendering.warp_glyph(glyph, side, angle)
    x, y = (int(rng.integers(size - extent + 1)) for extent in box[2:])
    image = rendering.place(patch, x - int(box[0]), y - int(box[1]), size)
    image = cv2.GaussianBlur(image, (0, 0), size / 28 * rng.uniform(0.2, 0.9))
    return np.round(255 * rng.uniform(0.7, 1.0) * image).astype(np.uint8), label


class LabelledImages(BaseDataset):
    """Base of datasets that hold their images in memory, with MMPretrain's conventions."""

    METAINFO: ClassVar[dict] = {}

    @property
    def CLASSES(self) -> Sequence[str]:  # noqa: N802 (MMPretrain's name)
        """Names of all classes."""
        return self.metainfo['classes']

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of all samples, int64 ``(n,)``."""
        return np.array([self.get_data_info(i)['gt_label'] for i in range(len(self))], np.int64)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of sample ``idx`` as a list of one, as samplers want it."""
        return [int(self.get_data_info(idx)['gt_label'])]


@DATASETS.register_module()
class DigitsDataset(LabelledImages):
    """Digits 0 to 9 as classification data that needs no download.

    Items are ``{'img': uint8 (size, size, channels), 'gt_label': int, 'sample_idx': int}``, ready
    for MMPretrain's transforms and ``PackInputs``.

    Args:
        split: 'train', 'val' or 'test'. Splits share neither images nor fonts.
        source: 'handwritten' are scikit-learn's 1,797 digits, cut 60/20/20 by class with a fixed
            seed; 'fontdigits' are rendered from matplotlib's fonts with jitter, for domain
            adaptation.
        size: Height and width in pixels, >= 8. Handwritten digits are enlarged from 8x8 (cubic).
        channels: 1 (grey) or 3 (three equal channels).
        num_samples: Number of rendered digits; by default that of the handwritten split. Only
            with 'fontdigits'.
        seed: Seed of the rendering, >= 0. Only with 'fontdigits'; the split never depends on it.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: An argument is out of its range.
        ImportError: scikit-learn, or matplotlib for 'fontdigits', is not installed.

    Example:
        >>> dataset = dict(type='mmext.DigitsDataset', split='train', channels=3,
        ...                pipeline=[dict(type='PackInputs')])
    """

    METAINFO: ClassVar[dict] = {'classes': tuple('0123456789')}

    def __init__(
        self,
        split: str,
        source: str = 'handwritten',
        size: int = 28,
        channels: int = 1,
        num_samples: int | None = None,
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        rendering.check_split(split)
        if source not in SOURCES:
            raise ValueError(f'source must be one of {", ".join(SOURCES)}, got {source!r}')
        if size < 8:
            raise ValueError(f'size must be at least 8 pixels, got {size}')
        if channels not in (1, 3):
            raise ValueError(f'channels must be 1 or 3, got {channels}')
        if source == 'handwritten' and (num_samples is not None or seed):
            raise ValueError("num_samples and seed apply to source='fontdigits' only")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f'num_samples must be at least 1, got {num_samples}')
        if seed < 0:
            raise ValueError(f'seed must not be negative, got {seed}')
        self.split = split
        self.source = source
        self.size = size
        self.channels = channels
        self.num_samples = num_samples
        self.seed = seed
        super().__init__(pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return all items, see the class."""
        if self.source == 'handwritten':
            images, labels = handwritten_digits(self.split)
            pairs = [
                (self._enlarge(image), int(label))
                for image, label in zip(images, labels, strict=True)
            ]
        else:
            count = self.num_samples or len(handwritten_digits(self.split)[1])
            pairs = [
                render_font_digit(self.split, self.size, self.seed, index) for index in range(count)
            ]
        return [
            {'img': np.repeat(image[..., None], self.channels, 2), 'gt_label': label}
            for image, label in pairs
        ]

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        grey = image.astype(np.float32) * (255 / 16)
        large = cv2.resize(grey, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.clip(np.round(large), 0, 255).astype(np.uint8)
