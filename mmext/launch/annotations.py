"""Find missing data and mistakes in COCO annotation files before a training starts.

MMDetection drops annotations of unknown categories without a word, so a wrong class list trains on
nothing; and missing data is reported from deep inside the dataset, or downloaded without asking.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmext.datasets import catalog
from mmext.launch.arguments import arguments


def check_annotations(
    cfg: Mapping[str, Any], dataloaders: Sequence[str] = ('train_dataloader', 'val_dataloader')
) -> None:
    """Check the known data sets and every local COCO file that some dataloaders of a config name.

    A data set is known if it is in :data:`mmext.datasets.known_sets.SETS`; one of these that is
    missing is named with the command that prepares it.

    One warning counts the boxes that ``metainfo.classes`` leaves out: to train on a part of the
    categories is usual, and so is a class that was forgotten.

    Args:
        cfg: Config of a Runner.
        dataloaders: Keys of the dataloaders that the run reads; the config need not have them all.

    Raises:
        FileNotFoundError: A known data set, a folder or a file does not exist.
        ValueError: A file is no COCO annotation file, an annotation or a class of the config has a
            category that the file does not define, or a training set that needs labels has none of
            its classes.

    Example:
        >>> check_annotations(cfg, ['test_dataloader'])  # before a test
    """
    seen: set[tuple[str, tuple[str, ...], bool]] = set()
    notes: list[str] = []
    for field in dataloaders:
        source = (cfg.get(field) or {}).get('dataset')
        folders = list(_folders(source))
        for folder, _ in folders:
            catalog.check_present(folder)
        for dataset in _coco_datasets(source):
            path = _path(dataset)
            key = path, _classes(field, dataset), _needs_labels(dataset)
            if key not in seen and '://' not in path:
                seen.add(key)
                notes.append(_check_file(f'{field}: ann_file {path}', *key))
        for folder, dataset in folders:
            if not os.path.exists(folder) and not _makes_it(dataset, cfg.get('default_scope')):
                raise FileNotFoundError(
                    f'{field}: {folder} does not exist: put the data of {dataset.get("type")} '
                    'there, or correct data_root or data_prefix'
                )
    if any(notes):
        print_log(
            f'Boxes outside metainfo.classes are left out: {"; ".join(filter(None, notes))}',
            logger='current',
            level=logging.WARNING,
        )


def _classes(field: str, dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Classes that a dataset config asks for; a string is a file with a class on each line."""
    classes = (dataset.get('metainfo') or {}).get('classes') or ()
    if not isinstance(classes, str):
        return tuple(classes)
    try:
        return tuple(list_from_file(classes))
    except (TypeError, FileNotFoundError):
        # MMDetection would take each letter for a class.
        raise ValueError(
            f'{field}: metainfo.classes={classes!r} is neither a list nor a file with a class on '
            f'each line; a list of one class is [{classes!r}]'
        ) from None


def _folders(node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Local folders of the dataset configs in a dataset config, whatever wraps them."""
    if isinstance(node, Mapping):
        # MMPretrain's own configs have the folder in data_prefix.
        for folder in (node.get('data_root'), node.get('data_prefix')):
            if isinstance(folder, str) and folder and '://' not in folder:
                yield os.path.expanduser(folder), node
                break
        for key, value in node.items():
            if key != 'pipeline':
                yield from _folders(value)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _folders(child)


def _makes_it(dataset: Mapping[str, Any], scope: str | None) -> bool:
    """Whether a dataset downloads into its folder, as MMPretrain's MNIST does."""
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = dataset.get('type')
        cls = registry.get(kind) if isinstance(kind, str) else kind
    taken = arguments(cls) if isinstance(cls, type) else None
    return 'download' in (taken or ()) and bool(dataset.get('download', True))


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


def _check_file(what: str, path: str, classes: tuple[str, ...], needs_labels: bool) -> str:
    """Check one file; return what to say of the boxes that the classes leave out, '' for none."""
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
        used = Counter(annotation['category_id'] for annotation in annotations)
        where = {annotation['image_id'] for annotation in annotations}
        known = {image['id'] for image in images}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{what} is no COCO annotation file ({error!r})') from error
    if not images:
        raise ValueError(f'{what} lists no image')
    undefined = sorted(set(used) - set(names))
    if undefined:
        raise ValueError(
            f'{what} has annotations of the categories {undefined[:5]}, which its '
            f'"categories" do not define: correct the file'
        )
    unknown = sorted(name for name in classes if name not in names.values())
    if unknown:
        raise ValueError(
            f'{what} does not know the classes {unknown[:5]} of metainfo.classes; it has '
            f'{sorted(names.values())[:10]}'
        )
    if where - known:
        raise ValueError(f'{what} has annotations of images that it does not list')
    kept = {category for category in used if not classes or names[category] in classes}
    if needs_labels and not kept:
        of_these = f' with a box of metainfo.classes {list(classes)[:10]}' if used else ''
        raise ValueError(
            f'{what} has zero labelled images{of_these}: there is nothing to learn from; point '
            'ann_file at the labelled subset'
        )
    others = [(names[key], count) for key, count in used.most_common() if key not in kept]
    if not others:
        return ''
    shown = ', '.join(f'{count} {name}' for name, count in others[:5])
    more = f' and those of {len(others) - 5} more categories' if len(others) > 5 else ''
    left_out = sum(count for _, count in others)
    return f'{what}: {left_out} of {len(annotations)} ({shown}{more})'
