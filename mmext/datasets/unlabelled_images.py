"""Images without labels, for semi-supervised training."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.utils import scandir
from torchvision.datasets.folder import IMG_EXTENSIONS

from mmext.registry import DATASETS


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """The images of a folder and of the folders in it, or those that a COCO file lists.

    Args:
        data_prefix: ``dict(img=FOLDER)``.
        ann_file: A COCO file; only its ``images`` are read. Empty: all images of the folder.
        exclude: More sources, ``dict(img=FOLDER, ann_file=FILE)``, whose images are left out, such
            as those that have labels.
        metainfo, pipeline, lazy_init and others: As in MMEngine's ``BaseDataset``.

    Raises:
        ValueError: No image is left.

    Example:
        >>> dataset = dict(
        ...     type='mmext.UnlabelledImages',
        ...     data_prefix=dict(img='photos/'),
        ...     pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadEmptyAnnotations'), ...])
    """

    def __init__(self, *args: Any, exclude: Sequence[Mapping[str, str]] = (), **kwargs: Any):
        self.exclude = exclude
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """A sample for each image: ``img_path``, ``img_id`` and no ``instances``."""
        paths = unlabelled_paths(self.data_prefix['img'], self.ann_file, self.exclude)
        return [
            {'img_path': path, 'img_id': number, 'instances': []}
            for number, path in enumerate(paths)
        ]


def unlabelled_paths(
    img: str, ann_file: str = '', exclude: Sequence[Mapping[str, str]] = ()
) -> list[str]:
    """Paths of the images, sorted where a folder is read, else in the order of the file.

    Args:
        img: Folder.
        ann_file, exclude: See :class:`UnlabelledImages`.

    Raises:
        ValueError: There is none.
    """
    paths = image_paths(img, ann_file)
    labelled = {os.path.realpath(path) for source in exclude for path in image_paths(**source)}
    kept = [path for path in paths if os.path.realpath(path) not in labelled]
    if not kept:
        named = f'{ann_file or img} has no image'
        raise ValueError(f'{named} that has no labels already' if paths else named)
    return kept


def image_paths(img: str, ann_file: str = '') -> list[str]:
    """Paths of all images of a source, see :func:`unlabelled_paths`."""
    if not ann_file:
        found = scandir(img, IMG_EXTENSIONS, recursive=True, case_sensitive=False)
        # Hidden folders have copies, of notebooks for one.
        return [os.path.join(img, name) for name in sorted(found) if f'{os.sep}.' not in f'/{name}']
    with open(ann_file) as handle:
        return [os.path.join(img, image['file_name']) for image in json.load(handle)['images']]
