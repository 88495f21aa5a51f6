"""Pairs of a content and a style photo with masks, to evaluate photorealistic style transfer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from torch import Tensor

from mmext.datasets import catalog
from mmext.registry import DATASETS

#: RGB colours of the regions in the masks; their places are the labels.
REGIONS = (
    (0, 0, 0),
    (255, 255, 255),
    (0, 0, 255),
    (0, 255, 0),
    (255, 0, 0),
    (255, 255, 0),
    (128, 128, 128),
    (0, 255, 255),
    (255, 0, 255),
)


@DATASETS.register_module()
class PhotoPairs(BaseDataset):
    """The test set of Deep Photo Style Transfer (arXiv 1703.07511): photos, masks, its results.

    Reads ``content/01.jpg``, ``style/01.jpg``, ``content_masks/01.png``, ``style_masks/01.png`` and
    ``deep_photo_style/01.jpg`` of each pair. Items are ``{'name': '01', 'content': uint8
    (3, H, W), 'style': uint8 (3, h, w), 'content_mask': int64 (H, W), 'style_mask': int64 (h, w),
    'published': uint8 (3, H, W)}`` in RGB, where ``published`` is the result of that paper. A mask
    says to which of the 9 :data:`REGIONS` a pixel belongs: content takes the style of the region
    with the same label. The files have blurred edges; each pixel has the label of the nearest
    colour.

    Args:
        data_root: Folder of the set.
        max_side: Images are shrunk so that no side is longer, in pixels, >= 16; None: as they are,
            about 700.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: ``max_side`` is out of range, or a file is no image.
        FileNotFoundError: A file is missing; the message names the command that prepares the set.

    Example:
        >>> dataset = dict(type='mmext.PhotoPairs', data_root='data/photo_style_pairs',
        ...                max_side=512)
    """

    def __init__(
        self,
        data_root: str,
        max_side: int | None = None,
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        if max_side is not None and max_side < 16:
            raise ValueError(f'max_side={max_side} must be at least 16, or None')
        self.max_side = max_side
        super().__init__(data_root=data_root, pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return names and paths; images are read when asked for."""
        root = Path(self.data_root)
        names = sorted(path.stem for path in (root / 'content').glob('*.jpg'))
        if not names:
            raise FileNotFoundError(catalog.missing(root))
        items = [
            {
                'name': name,
                'content': root / 'content' / f'{name}.jpg',
                'style': root / 'style' / f'{name}.jpg',
                'content_mask': root / 'content_masks' / f'{name}.png',
                'style_mask': root / 'style_masks' / f'{name}.png',
                'published': root / 'deep_photo_style' / f'{name}.jpg',
            }
            for name in names
        ]
        for item in items:
            for path in item.values():
                if isinstance(path, Path) and not path.is_file():
                    raise FileNotFoundError(catalog.missing(path))
        return items

    def prepare_data(self, idx: int) -> Any:
        """Read a pair and run the pipeline."""
        paths = self.get_data_info(idx)
        images = {
            key: _read(paths[key])
            for key in ('content', 'style', 'content_mask', 'style_mask', 'published')
        }
        item: dict[str, Any] = {'name': paths['name']}
        for part in ('content', 'style'):
            height, width = images[part].shape[:2]
            shrink = min(1.0, (self.max_side or max(height, width)) / max(height, width))
            size = round(width * shrink), round(height * shrink)
            item[part] = _resize(images[part], size)
            item[f'{part}_mask'] = _labels(images[f'{part}_mask'], size)
            if part == 'content':
                # The published file of one pair is a pixel off.
                item['published'] = _resize(images['published'], size)
        return self.pipeline(item)


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'{path} is no image that OpenCV can read')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _resize(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    if image.shape[1::-1] != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _labels(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Label of the nearest colour of :data:`REGIONS` for each pixel, int64 (H, W)."""
    if mask.shape[1::-1] != size:
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    # Squared distance less the pixel's own square, which all colours share.
    colours = np.array(REGIONS, np.float32)
    distance = (colours**2).sum(1) - 2 * mask.astype(np.float32) @ colours.T
    return torch.from_numpy(distance.argmin(-1))
