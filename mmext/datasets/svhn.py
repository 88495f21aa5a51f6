"""Street View House Numbers, cropped digits, from the official .mat files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmext.datasets.digits import LabelledImages
from mmext.registry import DATASETS

SPLITS = ('train', 'test', 'extra')
HOME = 'http://ufldl.stanford.edu/housenumbers/'


@DATASETS.register_module()
class SVHNDataset(LabelledImages):
    """SVHN format 2 (cropped digits): 73,257 training, 26,032 test and 531,131 extra images.

    Reads ``train_32x32.mat``, ``test_32x32.mat`` and ``extra_32x32.mat`` as they are published:
    ``X`` (32, 32, 3, N) uint8 RGB and ``y`` (N, 1), where the digit 0 has the label 10. Items are
    ``{'img': uint8 (32, 32, 3) BGR, 'gt_label': int in 0..9, 'sample_idx': int}``. Nothing is
    downloaded.

    Args:
        data_root: Folder of the .mat files.
        split: 'train', 'test' or 'extra', or several joined by '+', such as 'train+extra'.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: Unknown split, or a file that is not in the official format.
        FileNotFoundError: A file is missing; the message says where it is published.
        ImportError: scipy is not installed.

    Example:
        >>> dataset = dict(type='mmext.SVHNDataset', data_root='data/svhn', split='train',
        ...                pipeline=[dict(type='PackInputs')])
    """

    METAINFO: ClassVar[dict] = {'classes': tuple('0123456789')}

    def __init__(
        self, data_root: str, split: str, pipeline: Sequence[Any] = (), **kwargs: Any
    ) -> None:
        unknown = [part for part in split.split('+') if part not in SPLITS]
        if unknown:
            raise ValueError(
                f'split={split!r} must be of {", ".join(SPLITS)}, or several joined by +'
            )
        self.split = split
        super().__init__(data_root=data_root, pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read all items, see the class."""
        items = []
        for part in self.split.split('+'):
            images, labels = read_mat(Path(self.data_root) / f'{part}_32x32.mat')
            # BGR, as MMPretrain's loaders give; its preprocessors turn it to RGB.
            items += [
                {'img': np.ascontiguousarray(image[..., ::-1]), 'gt_label': int(label)}
                for image, label in zip(images, labels, strict=True)
            ]
        return items


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file.

    Returns:
        Images uint8 (N, 32, 32, 3) RGB and labels int64 (N,) in 0..9.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: It is not in the official format.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; it is published at {HOME}{path.name}')
    try:
        content = loadmat(path)
        images, labels = content['X'], content['y'].ravel().astype(np.int64)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f'{path} is not a cropped-digits file of SVHN: {error!r}') from error
    fits = images.ndim == 4 and images.shape[:3] == (32, 32, 3) and images.dtype == np.uint8
    if not fits or images.shape[3] != len(labels) or not ((labels >= 1) & (labels <= 10)).all():
        raise ValueError(
            f'{path} is not a cropped-digits file of SVHN: X is {images.dtype} {images.shape}, y '
            f'has {len(labels)} labels; expected uint8 (32, 32, 3, N) and N labels in 1..10'
        )
    return images.transpose(3, 0, 1, 2), labels % 10
