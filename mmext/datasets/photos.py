"""Colour photos of scikit-image and scikit-learn or of a folder, for self-supervised training."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset

from mmext.datasets import catalog
from mmext.engine.rng import derive_seed
from mmext.registry import DATASETS

#: Split -> photos. Whole photos are held out, never crops. scikit-image's are CC0 or public domain;
#: china and flower are CC-BY 2.0 (Filipe Calegario, Didier Descouens via scikit-learn's README).
PHOTOS: dict[str, tuple[str, ...]] = {
    'train': ('astronaut', 'chelsea', 'china', 'coffee', 'motorcycle_right', 'hubble_deep_field'),
    'test': ('flower', 'motorcycle_left', 'rocket'),
}
_SCIKIT_LEARN = ('china', 'flower')


def photo(name: str) -> np.ndarray:
    """Photo as uint8 (H, W, 3) in RGB, read-only.

    Raises:
        ValueError: Unknown name.
        ImportError: The package that ships it is missing.
    """
    if name not in {known for names in PHOTOS.values() for known in names}:
        raise ValueError(f'photo {name!r} is unknown; there are: {PHOTOS}')
    package, folder = (
        ('sklearn', 'datasets/images') if name in _SCIKIT_LEARN else ('skimage', 'data')
    )
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(
            f"photo {name!r} needs {package}: pip install 'mmext[data]'", name=package
        )
    (path,) = (Path(spec.origin).parent / folder).glob(f'{name}.[jp][pn]g')
    return read_rgb(path)


@lru_cache(maxsize=512)
def read_rgb(path: Path) -> np.ndarray:
    """Read a photo as uint8 (H, W, 3) in RGB, read-only; the last 512 are kept in memory.

    Raises:
        ValueError: The file is no image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'{path} is no image that OpenCV can read')
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    image.setflags(write=False)
    return image


@DATASETS.register_module()
class PhotoCrops(BaseDataset):
    """Random crops of the photos, ``{'inputs': uint8 tensor (3, size, size)}``.

    Crop i shows photo ``i % photos`` and depends on ``seed``, ``split`` and i alone: a window of
    ``size`` to ``zoom * size`` pixels, as far as the photo has them, brought to ``size`` and
    mirrored or not.

    Args:
        split: 'train' or 'test'; they share no photo (the motorcycle is in both, as a stereo pair,
            for its disparity; studies of quality leave it out). With ``data_root`` any folder in
            it, such as 'val'.
        size: Height and width in pixels, >= 16.
        num_samples: Number of crops.
        zoom: Largest window over ``size``, >= 1.
        seed: Seed of the windows.
        data_root: Folder with a folder of JPEG or PNG photos for each split, such as
            ``data/bsds500/images``; empty: the photos inside scikit-image and scikit-learn.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: An argument is out of range.
        FileNotFoundError: ``data_root`` has no photos of the split.

    Example:
        >>> dataset = dict(type='mmext.PhotoCrops', split='train', size=96, num_samples=4000)
    """

    def __init__(
        self,
        split: str = 'train',
        size: int = 96,
        num_samples: int = 4000,
        zoom: float = 3.0,
        seed: int = 0,
        data_root: str = '',
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        if not data_root and split not in PHOTOS:
            raise ValueError(f'split={split!r} must be one of {", ".join(PHOTOS)}')
        if size < 16 or num_samples < 1 or zoom < 1:
            raise ValueError(
                f'size={size} must be at least 16, num_samples={num_samples} and zoom={zoom} '
                'at least 1'
            )
        self.split = split
        self.size = size
        self.num_samples = num_samples
        self.zoom = zoom
        self.seed = seed
        self.files: list[Path] = []
        super().__init__(data_root=data_root, pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Numbers of the crops; pixels are cut when asked for."""
        if self.data_root:
            folder = Path(self.data_root) / self.split
            self.files = sorted(
                path
                for path in folder.glob('*')
                if path.suffix.lower() in ('.jpg', '.jpeg', '.png')
            )
            if not self.files:
                raise FileNotFoundError(catalog.missing(folder / '*.jpg'))
        return [{'number': number} for number in range(self.num_samples)]

    def prepare_data(self, idx: int) -> Any:
        """Cut a crop and run the pipeline."""
        number = self.get_data_info(idx)['number']
        return self.pipeline({'inputs': torch.from_numpy(self.crop(number))})

    def crop(self, number: int) -> np.ndarray:
        """Crop as uint8 (3, size, size)."""
        rng = np.random.default_rng(derive_seed(self.seed, 'photos', self.split, number))
        if self.files:
            image = read_rgb(self.files[number % len(self.files)])
        else:
            names = PHOTOS[self.split]
            image = photo(names[number % len(names)])
        height, width = image.shape[:2]
        largest = min(self.zoom * self.size, height, width)
        side = round(rng.uniform(min(self.size, largest), largest))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        window = image[top : top + side, left : left + side]
        method = cv2.INTER_AREA if side > self.size else cv2.INTER_CUBIC
        window = cv2.resize(window, (self.size, self.size), interpolation=method)
        if rng.integers(2):
            window = window[:, ::-1]
        return np.ascontiguousarray(window.transpose(2, 0, 1))
