"""Find mistakes in COCO annotation files before a training starts.

MMDetection drops annotations of unknown categories without a word, so a wrong class list trains on
nothing; and a missing file is reported from deep inside the dataset.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any


def check_annotations(cfg: Mapping[str, Any]) -> None:
    """Check every local COCO file that the dataloaders of a config name.

    Args:
        cfg: Config with ``train_dataloader``, ``val_dataloader`` or ``test_dataloader``.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is no COCO annotation file, an annotation or a class of the config has a
            category that the file does not define, or a training set that needs labels has none.
    """
    seen: set[str] = set()
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in _coco_datasets((cfg.get(field) or {}).get('dataset')):
            path = _path(dataset)
            classes = tuple((dataset.get('metainfo') or {}).get('classes') or ())
            key = f'{field == "train_dataloader"} {path} {classes}'
            if key not in seen and '://' not in path:
                seen.add(key)
                _check_file(f'{field}: ann_file {path}', path, classes, _needs_labels(dataset))


def _coco_datasets(node: Any) -> Iterator[Mapping[str, Any]]:
    """Dataset configs of CocoDataset below a dataset config, wrappers included."""
    if isinstance(node, Mapping):
        kind = str(node.get('type', '')).rpartition('.')[2]
        if kind == 'CocoDataset' and node.get('ann_file'):
            yield node
        else:
            for key in ('dataset', 'datasets'):
                yield from _coco_datasets(node.get(key))
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _coco_datasets(child)


def _path(dataset: Mapping[str, Any]) -> str:
    path, root = dataset['ann_file'], dataset.get('data_root') or ''
    return path if os.path.isabs(path) or '://' in path else os.path.join(root, path)


def _needs_labels(dataset: Mapping[str, Any]) -> bool:
    """A training set that keeps images without boxes is an unlabelled one."""
    filtering = (dataset.get('filter_cfg') or {}).get('filter_empty_gt', False)
    return bool(filtering) and not dataset.get('test_mode', False)


def _check_file(what: str, path: str, classes: tuple[str, ...], needs_labels: bool) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'{what} does not exist; make it with tools/dataset_converters or correct '
            'data_root and ann_file'
        )
    try:
        with open(path) as handle:
            content = json.load(handle)
        images, categories = content['images'], content['categories']
        annotations = content.get('annotations', [])
        names = {category['id']: category['name'] for category in categories}
        used = {annotation['category_id'] for annotation in annotations}
        where = {annotation['image_id'] for annotation in annotations}
        known = {image['id'] for image in images}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{what} is no COCO annotation file ({error!r})') from error
    if not images:
        raise ValueError(f'{what} lists no image')
    if used - set(names):
        raise ValueError(
            f'{what} has annotations of the categories {sorted(used - set(names))[:5]}, which its '
            f'"categories" do not define: correct the file'
        )
    unknown = sorted(name for name in classes if name not in names.values())
    if unknown:
        raise ValueError(
            f'{what} does not know the classes {unknown[:5]} of metainfo.classes; it has '
            f'{sorted(names.values())[:10]}'
        )
    dropped = sorted({names[category] for category in used} - set(classes)) if classes else []
    if dropped:
        raise ValueError(
            f'{what} has boxes labelled {dropped[:5]}, which are not among metainfo.classes '
            f'{list(classes)[:10]}: they would be dropped silently; add the classes or remove the '
            'boxes'
        )
    if where - known:
        raise ValueError(f'{what} has annotations of images that it does not list')
    if needs_labels and not annotations:
        raise ValueError(
            f'{what} has zero labelled images: there is nothing to learn from; point ann_file '
            'at the labelled subset'
        )
