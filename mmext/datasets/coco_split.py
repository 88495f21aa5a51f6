"""Labelled shares of a COCO data set for semi-supervised detection."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def draw_labelled(num_images: int, percent: float, fold: int, seed: int = 0) -> list[int]:
    """Draw the labelled images of one fold, without replacement.

    Exactly ``max(1, round(num_images * percent / 100))`` of them. Within a fold a smaller share is
    part of a larger one; folds are independent draws.

    Args:
        num_images: Images of the data set, >= 1.
        percent: Labelled share, in (0, 100].
        fold: Number of the fold, >= 1.
        seed: Of all folds, >= 0.

    Returns:
        Sorted positions in ``range(num_images)``.

    Raises:
        ValueError: A number outside its range.
    """
    if num_images < 1:
        raise ValueError('the annotation file has no images')
    if not 0 < percent <= 100:
        raise ValueError(f'percent={percent:g} must be in (0, 100]')
    if fold < 1 or seed < 0:
        raise ValueError(f'fold={fold} must be at least 1 and seed={seed} at least 0')
    order = np.random.default_rng([seed, fold]).permutation(num_images)
    return sorted(order[: max(1, round(num_images * percent / 100))].tolist())


def split_coco(
    ann_file: str | os.PathLike,
    out_dir: str | os.PathLike,
    percent: Sequence[float] = (1, 2, 5, 10),
    folds: int = 5,
    seed: int = 0,
) -> dict[str, int]:
    """Write labelled and unlabelled annotation files of every share and fold.

    ``{stem}.{fold}@{percent}.json`` and ``{stem}.{fold}@{percent}-unlabeled.json``, the names of
    MMDetection's semi-supervised configs, ``1@10`` and not ``1@10.0``. The unlabelled files have no
    annotations. The draw depends on the ids of the images and not on their order in the file.

    Args:
        ann_file: COCO annotations, such as ``instances_train2017.json``.
        out_dir: Folder for the files; made where missing.
        percent: Labelled shares, each in (0, 100].
        folds: Number of draws of each share, >= 1.
        seed: See :func:`draw_labelled`.

    Returns:
        File name -> number of its images.

    Raises:
        FileNotFoundError: There is no ``ann_file``.
        ValueError: It is no COCO file, or a number is outside its range.
    """
    ann_file, out_dir = Path(ann_file), Path(out_dir)
    if folds < 1:
        raise ValueError(f'folds={folds} must be at least 1')
    content = json.loads(ann_file.read_text())
    missing = {'images', 'annotations', 'categories'} - set(content)
    if missing:
        raise ValueError(f'{ann_file} is no COCO annotation file: it has no {sorted(missing)}')
    images = sorted(content['images'], key=lambda image: image['id'])
    draws = {
        f'{ann_file.stem}.{fold}@{share:g}': draw_labelled(len(images), share, fold, seed)
        for share in percent
        for fold in range(1, folds + 1)
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    written = {}
    for stem, chosen in draws.items():
        labelled = {images[position]['id'] for position in chosen}
        kept = [image for image in images if image['id'] in labelled]
        boxes = [item for item in content['annotations'] if item['image_id'] in labelled]
        rest = [image for image in images if image['id'] not in labelled]
        for name, part, annotations in (
            (f'{stem}.json', kept, boxes),
            (f'{stem}-unlabeled.json', rest, []),
        ):
            _write(out_dir / name, {**content, 'images': part, 'annotations': annotations})
            written[name] = len(part)
    return written


def _write(path: Path, content: dict[str, Any]) -> None:
    """Complete or not at all."""
    draft = path.with_suffix('.tmp')
    draft.write_text(json.dumps(content))
    os.replace(draft, path)
