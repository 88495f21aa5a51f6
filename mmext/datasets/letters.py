"""Upper-case letters on photos: data to pretrain a small backbone that then meets digits."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, ClassVar

import numpy as np

from mmext.datasets import backgrounds, rendering
from mmext.datasets.digits import LabelledImages
from mmext.registry import DATASETS

_SPLITS = ('train', 'val')
_SCENE, _SIDES = 36, (18, 34)


def render_letter(split: str, size: int, seed: int, index: int) -> tuple[np.ndarray, int]:
    """Render letter number ``index`` of a split as a small scene.

    The scene of 36/32 ``size`` pixels is drawn like the digit scenes (background, colour,
    contrast, rotation, strokes, noise) and a random ``size`` x ``size`` window is cut out, so
    the letter may lose a margin. The class is ``index % 26``. The result depends on the arguments
    alone. Costs about 1.3 ms at size 32.

    Returns:
        BGR image uint8 ``(size, size, 3)`` and label.
    """
    rng = np.random.default_rng([seed, _SPLITS.index(split), index])
    label = index % len(ascii_uppercase)
    fonts = rendering.FONTS[split]
    glyph = rendering.glyph_from_font(ascii_uppercase[label], fonts[rng.integers(len(fonts))])
    scale = size / 32
    scene = rendering.compose_scene(
        rng,
        backgrounds.load_photos('skimage', split),
        [glyph],
        size=round(_SCENE * scale),
        sides=(round(_SIDES[0] * scale), round(_SIDES[1] * scale)),
    )
    y, x = rng.integers(scene.image.shape[0] - size + 1, size=2)
    return scene.image[y : y + size, x : x + size].copy(), label


@DATASETS.register_module()
class LettersDataset(LabelledImages):
    """The 26 upper-case letters, drawn like the digits of the digit scenes.

    A detector of digit scenes trained from scratch hardly learns; its backbone starts from a
    classifier of these letters, which has seen neither a digit nor a background of the test set.
    Items are ``{'img': uint8 (size, size, 3) BGR, 'gt_label': int, 'sample_idx': int}``.
    All samples are rendered at the first access (20,000 at size 32 take about 30 s and 61 MB).

    Args:
        split: 'train' or 'val'; each has its own fonts and backgrounds.
        size: Height and width in pixels, >= 16; letters have 18 to 34 pixels at size 32 and
            scale with it.
        num_samples: Number of samples, >= 1. Sample i does not depend on it.
        seed: Seed of the rendering, >= 0.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: An argument is out of its range.
        ImportError: matplotlib or scikit-image is not installed.
        FileNotFoundError: Their wheels lack a font or a photo.

    Example:
        >>> dataset = dict(type='mmext.LettersDataset', split='train', num_samples=20000,
        ...                pipeline=[dict(type='PackInputs')])
    """

    METAINFO: ClassVar[dict] = {'classes': tuple(ascii_uppercase)}

    def __init__(
        self,
        split: str,
        size: int = 32,
        num_samples: int = 20000,
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        rendering.check_split(split, _SPLITS)
        if size < 16:
            raise ValueError(f'size must be at least 16 pixels, got {size}')
        if num_samples < 1:
            raise ValueError(f'num_samples must be at least 1, got {num_samples}')
        if seed < 0:
            raise ValueError(f'seed must not be negative, got {seed}')
        self.split = split
        self.size = size
        self.num_samples = num_samples
        self.seed = seed
        super().__init__(pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Render all samples, see the class."""
        items = []
        for index in range(self.num_samples):
            image, label = render_letter(self.split, self.size, self.seed, index)
            items.append({'img': image, 'gt_label': label})
        return items
