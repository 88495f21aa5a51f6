"""What a set of scenes consists of: its settings and its labelled shares."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmext.datasets import backgrounds, rendering
from mmext.datasets.scene_objects import OBJECTS

_MIN_SIDE = 8


@dataclass(frozen=True)
class SceneSettings:
    """Everything the content of the data set depends on, besides the objects and photos themselves.

    Args:
        size: Height and width of a scene in pixels, more than the larger of ``sides``.
        train: Number of training scenes, >= 1.
        val: Number of validation scenes, >= 1.
        test: Number of test scenes, >= 1.
        percent: Labelled shares of the training scenes in percent, each in (0, 100], distinct.
        folds: Number of draws of each labelled share, >= 1.
        seed: Seed, >= 0.
        sides: Range of the longer side of an object's box in pixels, ends included, from 8 on.
        objects: 'digits' (scikit-learn's, 8x8, enlarged), 'mnist' or 'fashion-mnist'.
        photos: 'skimage', 'packages' or 'bsds500', see
            :func:`mmext.datasets.backgrounds.photo_paths`.
        stratified: Whether a labelled share of n images shows every class in at least
            ``n // classes`` of them, see :func:`labelled_ids`.

    Raises:
        ValueError: A value is out of its range.

    Example:
        >>> SceneSettings(size=160, sides=(36, 84), photos='packages')  # larger digit scenes
    """

    size: int = 80
    train: int = 2000
    val: int = 300
    test: int = 300
    percent: tuple[float, ...] = (2.0, 10.0)
    folds: int = 3
    seed: int = 0
    sides: tuple[int, int] = (18, 42)
    objects: str = 'digits'
    photos: str = 'skimage'
    stratified: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sides', tuple(self.sides))
        if len(self.sides) != 2 or not _MIN_SIDE <= self.sides[0] <= self.sides[1] - 2:
            raise ValueError(
                f'sides must be two numbers from {_MIN_SIDE} on, the second larger by 2 or more, '
                f'got {list(self.sides)}'
            )
        # A margin of 6 pixels, so that an object of the largest side has places to choose from.
        if self.size < self.sides[1] + 6:
            raise ValueError(
                f'size must be at least {self.sides[1] + 6} pixels (objects have up to '
                f'{self.sides[1]}), got {self.size}'
            )
        for name in (*rendering.SPLITS, 'folds'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')
        object.__setattr__(self, 'percent', tuple(float(value) for value in self.percent))
        for value in self.percent:
            if not 0 < value <= 100:
                raise ValueError(f'percent must be in (0, 100], got {value:g}')
        if len({f'{value:g}' for value in self.percent}) < len(self.percent):
            raise ValueError(f'percent names a share twice: {list(self.percent)}')
        for name, known in (('objects', tuple(OBJECTS)), ('photos', backgrounds.PHOTO_SETS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f'{name} must be one of {", ".join(known)}, got {getattr(self, name)!r}'
                )


#: Scenes larger than the digit scenes, of more and harder objects; 1 % are 40 labelled images.
_LARGE = SceneSettings(
    size=176,
    train=4000,
    val=300,
    test=600,
    percent=(1, 2, 10),
    sides=(36, 92),
    photos='bsds500',
    stratified=True,
)
#: Name of a data set below the data root -> its settings.
DATA_SETS: dict[str, SceneSettings] = {
    'digit_scenes': SceneSettings(),
    'large_digit_scenes': SceneSettings(
        size=160, sides=(36, 84), photos='packages', percent=(1, 2, 3, 5, 10), stratified=True
    ),
    'mnist_scenes': replace(_LARGE, objects='mnist'),
    'fashion_scenes': replace(_LARGE, objects='fashion-mnist'),
}


def labelled_ids(
    settings: SceneSettings,
    fold: int,
    percent: float,
    labels: Sequence[Collection[int]] | None = None,
) -> list[int]:
    """Draw the labelled training images of one fold, without replacement.

    Exactly ``max(1, round(train * percent / 100))`` images. Within a fold a smaller share is part
    of a larger one, folds are independent draws. A stratified draw takes images in random order,
    but passes over those that have no class seen less often than all others; so n images show
    every class in ``n // classes`` of them or more, as far as the data set has it so often.

    Args:
        settings: Uses ``train``, ``seed`` and ``stratified``.
        fold: Number of the fold, from 1.
        percent: Share in (0, 100].
        labels: Labels of the objects in each training image; for ``stratified`` alone.

    Returns:
        Sorted image ids, which count from 1.

    Raises:
        ValueError: ``labels`` is missing or has another length than ``train``.
    """
    rng = np.random.default_rng([settings.seed, len(rendering.SPLITS), fold])
    count = max(1, round(settings.train * percent / 100))
    order = rng.permutation(settings.train).tolist()
    if settings.stratified:
        if labels is None or len(labels) != settings.train:
            raise ValueError(f'labels must name the classes of all {settings.train} images')
        order = _stratify(order, labels, count)
    return sorted(i + 1 for i in order[:count])


def _stratify(order: list[int], labels: Sequence[Collection[int]], count: int) -> list[int]:
    """Draw ``count`` images from ``order``, every beginning as even in the classes as it can be."""
    bare = [i for i in order if not labels[i]]
    order = [i for i in order if labels[i]]
    seen = dict.fromkeys({label for present in labels for label in present}, 0)
    chosen: list[int] = []
    level = 0
    while order and len(chosen) < count:
        level += 1
        rest = []
        for i in order:
            if any(seen[label] < level for label in labels[i]):
                chosen.append(i)
                for label in set(labels[i]):
                    seen[label] += 1
            else:
                rest.append(i)
        order = rest
    return chosen + bare
