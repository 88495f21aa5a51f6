"""Photos that rendered scenes are cut from: those inside installed packages, or BSDS500.

scikit-image's are CC0 or public domain (their sources are named in the documentation of
:mod:`skimage.data`), scikit-learn's are CC-BY 2.0 (Filipe Calegario, Didier Descouens), that of
matplotlib is public domain. BSDS500 is for research use and is read from a folder.
"""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from mmext.datasets import catalog, rendering

PHOTO_SETS = ('skimage', 'packages', 'bsds500')

#: Files under ``skimage/data`` each split cuts its backgrounds from. Left out: images with text
#: or numerals (page, text, clock_motion), graphics (logo, phantom, color, horse, chessboard) and
#: the second view of the motorcycle, which is nearly the first.
SKIMAGE: dict[str, tuple[str, ...]] = {
    'train': (
        'astronaut.png',
        'brick.png',
        'chelsea.png',
        'coins.png',
        'ihc.png',
        'moon.png',
        'motorcycle_left.png',
        'rocket.jpg',
    ),
    'val': ('camera.png', 'grass.png', 'hubble_deep_field.jpg'),
    'test': ('coffee.png', 'gravel.png', 'retina.jpg'),
}
#: What 'packages' has besides: the other photos of at least 300 pixels inside the wheels of the
#: extra 'data', as (package, folder, file).
OTHERS: dict[str, tuple[tuple[str, str, str], ...]] = {
    'train': (
        ('sklearn', 'datasets/images', 'china.jpg'),
        ('matplotlib', 'mpl-data/sample_data', 'grace_hopper.jpg'),
    ),
    'val': (('sklearn', 'datasets/images', 'flower.jpg'),),
    'test': (('skimage', 'data', 'cell.png'),),
}


def photo_paths(photos: str, split: str, data_root: str | Path = 'data') -> list[Path]:
    """Return the photos of one split; the splits share none.

    Args:
        photos: 'skimage' (8, 3 and 3 photos), 'packages' (those and 2, 1 and 1 of scikit-learn,
            matplotlib and scikit-image) or 'bsds500' (200, 100 and 200, its own split).
        split: 'train', 'val' or 'test'.
        data_root: Folder that holds ``bsds500/``.

    Returns:
        Paths in a fixed order.

    Raises:
        ValueError: Unknown ``photos`` or ``split``.
        ImportError: A package that ships photos is not installed.
        FileNotFoundError: BSDS500 is not in ``data_root``.
    """
    rendering.check_split(split)
    if photos not in PHOTO_SETS:
        raise ValueError(f'photos must be one of {", ".join(PHOTO_SETS)}, got {photos!r}')
    if photos == 'bsds500':
        paths = sorted((Path(data_root) / 'bsds500' / 'images' / split).glob('*.jpg'))
        if not paths:
            raise FileNotFoundError(
                f'{catalog.missing(Path(data_root) / "bsds500")}, or take the photos of installed '
                "packages (photos='packages')"
            )
        return paths
    paths = [rendering.package_dir('skimage') / 'data' / name for name in SKIMAGE[split]]
    if photos == 'packages':
        paths += [
            rendering.package_dir(package) / folder / name
            for package, folder, name in OTHERS[split]
        ]
    return paths


@lru_cache(maxsize=6)
def load_photos(photos: str, split: str, data_root: str | Path = 'data') -> tuple[np.ndarray, ...]:
    """Read the photos of one split, see :func:`photo_paths`.

    200 photos of BSDS500 take about a second and 93 MB.

    Returns:
        BGR uint8 images ``(H, W, 3)`` of different sizes, all sides >= 300. They are shared
        between calls, hence read-only.

    Raises:
        FileNotFoundError: A photo is missing or unreadable.
    """
    images = []
    for path in photo_paths(photos, split, data_root):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            fix = 'prepare bsds500 again' if photos == 'bsds500' else 'install a wheel with it'
            raise FileNotFoundError(f'{path} is missing or unreadable: {fix}')
        image.setflags(write=False)
        images.append(image)
    return tuple(images)
