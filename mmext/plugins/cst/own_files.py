"""Files of one's own for cycle self-training: COCO annotations and folders of images."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset

from mmext.datasets.unlabelled_images import unlabelled_paths

# What MMDetection's CocoDataset reads.
_FIELDS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}


@dataclass(frozen=True)
class LabelledImages:
    """A COCO file and the folder of its images.

    Args:
        ann_file: Path.
        folder: The names in the file start from here.
        images: How many.
        boxes: How many.
        classes: Names in the order of the file, which is that of MMDetection's labels.
    """

    ann_file: str
    folder: str
    images: int
    boxes: int
    classes: tuple[str, ...]

    @property
    def source(self) -> dict[str, str]:
        """As ``mmext.UnlabelledImages`` takes it in ``exclude``."""
        return {'img': self.folder, 'ann_file': self.ann_file}

    def dataset(self, classes: tuple[str, ...], **settings: Any) -> dict[str, Any]:
        """Config of a dataset of these images with boxes of some classes."""
        return {
            'type': 'CocoDataset',
            'ann_file': self.ann_file,
            'data_prefix': {'img': self.folder},
            'metainfo': metainfo(classes),
            **settings,
        }


def metainfo(classes: tuple[str, ...]) -> dict[str, Any]:
    """Of a dataset: the classes, and the colours of COCO's, again after the last."""
    colours = CocoDataset.METAINFO['palette']
    palette = [colours[index % len(colours)] for index in range(len(classes))]
    return {'classes': classes, 'palette': palette}


def labelled_images(
    ann_file: str, folder: str | None, option: str, folder_option: str, *places: str
) -> LabelledImages:
    """Read a COCO file and find its images.

    Args:
        ann_file: Path.
        folder: Of the images. None: the folder of the file and those beside it are tried, then
            ``places``.
        option, folder_option: Names of the two for messages.
        places: More folders where the images may be.

    Raises:
        FileNotFoundError: There is no such file, or an image is missing.
        ValueError: It is no COCO file with boxes.
    """
    content = _read(ann_file, option)
    for part, fields in _FIELDS.items():
        for number, entry in enumerate(_part(content, part, ann_file, option)):
            lacking = [name for name in fields if name not in entry]
            if lacking:
                raise ValueError(f'{option} {ann_file}: {part}[{number}] has no {lacking[0]!r}')
    classes = tuple(category['name'] for category in content['categories'])
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise ValueError(f'{option} {ann_file}: two categories have the name {twice[0]!r}')
    names = [image['file_name'] for image in content['images']]
    if not names or not content['annotations']:
        absent = 'annotations' if names else 'images'
        raise ValueError(f'{option} {ann_file} has no {absent}: there is nothing to learn from')
    found = _folder(ann_file, names, folder, folder_option, places)
    return LabelledImages(ann_file, found, len(names), len(content['annotations']), classes)


def unlabelled_images(path: str, *labelled: LabelledImages) -> tuple[dict[str, Any], int]:
    """Arguments of ``mmext.UnlabelledImages`` for a folder or a COCO file, and their number.

    Args:
        path: Of ``--unlabelled``.
        labelled: Images that are left out.

    Raises:
        FileNotFoundError: It does not exist, or an image of the file is missing.
        ValueError: No image is left, or the file is no COCO file.
    """
    option, places = '--unlabelled', [images.folder for images in labelled]
    source: dict[str, str] = {'img': path}
    if not os.path.isdir(path):
        content = _read(path, option)
        entries = _part(content, 'images', path, option)
        names = [entry.get('file_name', '') for entry in entries]
        if not all(names):
            raise ValueError(f"{option} {path}: images[{names.index('')}] has no 'file_name'")
        instead = f'{option} FOLDER in the place of the file'
        source = {'img': _folder(path, names, None, instead, places), 'ann_file': path}
    exclude = [images.source for images in labelled]
    try:
        count = len(unlabelled_paths(**source, exclude=exclude))
    except ValueError as error:
        raise ValueError(f'{option}: {error}') from error
    arguments: dict[str, Any] = {'data_prefix': {'img': source['img']}, 'exclude': exclude}
    if 'ann_file' in source:
        arguments['ann_file'] = path
    return arguments, count


def _read(path: str, option: str) -> dict[str, Any]:
    if not os.path.exists(path):
        raise FileNotFoundError(f'{option} {path} does not exist')
    try:
        with open(path) as handle:
            content = json.load(handle)
    except (OSError, ValueError) as error:
        raise ValueError(f'{option} {path} is no COCO annotation file ({error})') from error
    if not isinstance(content, dict):
        raise ValueError(f'{option} {path} is no COCO annotation file: it is no object with images')
    return content


def _part(content: dict[str, Any], name: str, path: str, option: str) -> list[dict[str, Any]]:
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f'{option} {path} is no COCO annotation file: it has no list of {name}')
    return found


def _folder(
    ann_file: str, names: list[str], given: str | None, option: str, places: Sequence[str]
) -> str:
    """The folder that has all images of a file; the first missing one is an error."""
    tried = [given] if given else [*_nearby(ann_file)]
    found = [place for place in tried if _has(place, names[0])]
    if not (found or given):
        tried += [place for place in places if place not in tried]
        found = [place for place in places if _has(place, names[0])][:1]
    if not found:
        raise FileNotFoundError(
            f'{names[0]}, an image of {ann_file}, is not in {", ".join(tried)}: name its folder '
            f'by {option}'
        )
    lacking = {place: next((n for n in names if not _has(place, n)), None) for place in found}
    whole = {os.path.realpath(place): place for place in found if lacking[place] is None}
    if len(whole) > 1:
        # Train and val may have images of the same names.
        raise ValueError(
            f'the images of {ann_file} are in {" and in ".join(whole.values())}: name their folder '
            f'by {option}'
        )
    if not whole:
        raise FileNotFoundError(
            f'{lacking[found[0]]}, an image of {ann_file}, is not in {found[0]}'
        )
    return next(iter(whole.values()))


def _nearby(ann_file: str) -> Iterator[str]:
    """Usual places of the images of a file."""
    path = Path(ann_file)
    stem = path.stem.removeprefix('instances_')
    for folder in (path.parent, path.parent.parent):
        for name in ('.', 'images', stem):
            yield str(folder / name)


def _has(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))
