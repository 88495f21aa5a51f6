"""Scenes: small detection benchmarks in COCO format, made offline from real images.

One to three objects (scikit-learn's handwritten digits, or those of MNIST or Fashion-MNIST) lie on
crops of photos. The splits share neither objects nor photos. The labelled part of a fold is drawn
without replacement, so "10 %" is 10 %.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import track

from mmext.datasets import backgrounds, catalog, rendering, scene_objects
from mmext.datasets.scene_objects import OBJECTS
from mmext.datasets.scene_settings import DATA_SETS, SceneSettings, labelled_ids

#: Raised whenever equal settings give other data.
GENERATOR_VERSION = 1

#: Names of the generator in manifests; the first is what is written.
_GENERATORS = ('scenes', 'digit_scenes')
_MAX_OBJECTS = 3


def render_scene(
    split: str, settings: SceneSettings, index: int, data_root: str | Path = 'data'
) -> tuple[rendering.Scene, np.ndarray]:
    """Render scene number ``index`` (from 0) of a split.

    Depends on the split, the seed, the size, the sides, the objects, the photos and the index
    alone; not on how many scenes there are. Costs 2 ms at 80 pixels and 7 ms at 176.

    Args:
        split: 'train', 'val' or 'test'.
        settings: What to draw.
        index: Number of the scene.
        data_root: Folder that holds ``mnist/``, ``fashion-mnist/`` and ``bsds500/``.

    Returns:
        The scene, and the label 0..9 of each of its boxes, int64 ``(n,)``.

    Raises:
        FileNotFoundError: Objects or photos are missing; the message says how to get them.
    """
    rng = np.random.default_rng([settings.seed, rendering.SPLITS.index(split), index])
    source = OBJECTS[settings.objects]
    images, labels = scene_objects.load_objects(settings.objects, split, data_root)
    chosen = rng.integers(len(labels), size=rng.integers(1, _MAX_OBJECTS + 1))
    scene = rendering.compose_scene(
        rng,
        backgrounds.load_photos(settings.photos, split, data_root),
        [source.to_glyph(images[i]) for i in chosen],
        settings.size,
        settings.sides,
        max_strokes=source.max_strokes,
        max_cover=source.max_cover,
    )
    return scene, labels[chosen[scene.kept]]


def generate(
    out: str | os.PathLike,
    settings: SceneSettings,
    force: bool = False,
    data_root: str | Path = 'data',
) -> tuple[dict[str, Any], bool]:
    """Write the data set, or find it there already.

    Layout::

        out/{train,val,test}/000001.png ...
        out/annotations/instances_{train,val,test}.json
        out/annotations/semi/instances_train.{fold}@{percent}.json             labelled part
        out/annotations/semi/instances_train.{fold}@{percent}-unlabeled.json   the other images
        out/manifest.json

    All is written to a sibling folder that takes the place of ``out`` at the end, so ``out`` is
    complete or untouched. Annotations are boxes only; the files of unlabelled images have none
    (give MMDetection's dataset ``filter_cfg=dict(filter_empty_gt=False)`` for them).

    Args:
        out: Target folder.
        settings: What to generate.
        force: Replace scenes that are there with other settings or are damaged.
        data_root: Folder that holds the sets the settings ask for: ``mnist/``,
            ``fashion-mnist/``, ``bsds500/``. The default settings need none.

    Returns:
        The manifest and whether anything was written.

    Raises:
        FileExistsError: ``out`` holds other scenes, or damaged ones, and ``force`` is False; or
            it holds something else, which is never removed.
        FileNotFoundError: Objects or photos are missing; the message says how to get them.
    """
    out = Path(out).resolve()
    present = _read_manifest(out)
    if present is not None and not force:
        # Settings that a folder of an earlier version does not name had their default.
        was = {**_as_json(SceneSettings()), **present['settings']}
        if present.get('generator_version') != GENERATOR_VERSION or was != _as_json(settings):
            raise FileExistsError(
                f'{out} holds scenes of other settings (version '
                f'{present.get("generator_version")}, {was}); pass --force to replace them, or '
                'another --out'
            )
        damaged = next(_damages(out, present), None)
        if damaged:
            raise FileExistsError(f'{out}: {damaged}; pass --force to generate it again')
        print_log(f'{out} is complete with these settings: nothing to do', logger='current')
        if 'name' not in present:
            present = _describe(out, out.name, present, settings)
        return present, False

    manifest = _replace(out, settings, data_root)
    boxes = ', '.join(
        f'{split} {manifest["counts"][split]["images"]} images with '
        f'{manifest["counts"][split]["boxes"]} boxes'
        for split in rendering.SPLITS
    )
    print_log(f'wrote {out}: {boxes}', logger='current')
    return manifest, True


def make(root: Path, out: Path) -> None:
    """Write the set of :data:`DATA_SETS` that ``out`` is named like, of the sets in ``root``."""
    _replace(out.resolve(), DATA_SETS[out.name], root)


def _replace(out: Path, settings: SceneSettings, data_root: str | Path) -> dict[str, Any]:
    """Write the set beside ``out`` and put it there; ``out`` is complete or untouched."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    try:
        # mkdtemp makes folders that other users cannot read.
        fresh = work / 'new'
        fresh.mkdir()
        manifest = _write(fresh, settings, data_root)
        manifest = _describe(fresh, out.name, manifest, settings)
        if out.exists():
            os.replace(out, work / 'old')
        try:
            os.replace(fresh, out)
        except BaseException:
            if (work / 'old').exists():
                os.replace(work / 'old', out)
            raise
    finally:
        shutil.rmtree(work)
    return manifest


def _describe(
    folder: Path, name: str, manifest: dict[str, Any], settings: SceneSettings
) -> dict[str, Any]:
    """Add to a manifest what all sets of the catalogue say, if this is one of them."""
    if name not in catalog.SETS:
        return manifest
    source = f'made of {settings.objects} and photos of {settings.photos}'
    return catalog.write_manifest(name, folder, source)


def _as_json(settings: SceneSettings) -> dict[str, Any]:
    values = asdict(settings)
    return {**values, 'percent': sorted(settings.percent), 'sides': list(settings.sides)}


def _read_manifest(out: Path) -> dict[str, Any] | None:
    """Return the manifest of scenes at ``out``; None if nothing is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        manifest = json.loads((out / 'manifest.json').read_text())
        is_ours = manifest['generator'] in _GENERATORS
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise FileExistsError(f'{out} is not empty and holds no scenes: pass another --out')
    return manifest


def _damages(out: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Say what differs between the files at ``out`` and their manifest."""
    for name, digest in manifest['annotations_sha256'].items():
        path = out / name
        if not path.is_file():
            yield f'{name} is missing'
        elif _sha256([path]) != digest:
            yield f'{name} was changed'
    paths = [
        out / split / image_name(number + 1)
        for split in rendering.SPLITS
        for number in range(manifest['settings'][split])
    ]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        yield f'{missing.relative_to(out)} is missing'
    elif _sha256(paths) != manifest['images_sha256']:
        yield 'an image was changed'


def image_name(image_id: int) -> str:
    """Return the file name of an image."""
    return f'{image_id:06d}.png'


def _sha256(paths: Iterable[Path]) -> str:
    """Return the sha256 of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _write(folder: Path, settings: SceneSettings, data_root: str | Path) -> dict[str, Any]:
    """Write images, annotations and manifest into an empty folder; return the manifest."""
    counts: dict[str, Any] = {}
    images_digest = hashlib.sha256()
    (folder / 'annotations' / 'semi').mkdir(parents=True)
    console = Console(stderr=True)
    for split in rendering.SPLITS:
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        numbers: Iterable[int] = range(getattr(settings, split))
        if console.is_terminal:
            numbers = track(numbers, description=split, console=console)
        for index in numbers:
            scene, labels = render_scene(split, settings, index, data_root)
            image_id = index + 1
            encoded = encode_png(scene.image)
            (folder / split / image_name(image_id)).write_bytes(encoded)
            images_digest.update(encoded)
            images.append(
                {
                    'id': image_id,
                    'file_name': image_name(image_id),
                    'width': settings.size,
                    'height': settings.size,
                }
            )
            for box, label in zip(scene.boxes.tolist(), labels.tolist(), strict=True):
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': image_id,
                        'category_id': label + 1,
                        'bbox': box,
                        'area': box[2] * box[3],
                        'iscrowd': 0,
                    }
                )
        path = folder / 'annotations' / f'instances_{split}.json'
        _write_coco(path, settings, images, annotations)
        counts[split] = {'images': len(images), 'boxes': len(annotations)}
        if split == 'train':
            counts['labelled'] = _write_folds(folder, settings, images, annotations)

    files = sorted((folder / 'annotations').rglob('*.json'))
    manifest = {
        'generator': _GENERATORS[0],
        'generator_version': GENERATOR_VERSION,
        'settings': _as_json(settings),
        'counts': counts,
        'annotations_sha256': {
            path.relative_to(folder).as_posix(): _sha256([path]) for path in files
        },
        # Of the PNG files of train, val and test, in this order and by name.
        'images_sha256': images_digest.hexdigest(),
        'backgrounds': {
            split: [
                path.name for path in backgrounds.photo_paths(settings.photos, split, data_root)
            ]
            for split in rendering.SPLITS
        },
        'versions': {
            'numpy': np.__version__,
            'opencv': cv2.__version__,
            'scikit-learn': version('scikit-learn'),
            'scikit-image': version('scikit-image'),
        },
    }
    (folder / 'manifest.json').write_text(json.dumps(manifest, indent=2) + '\n')
    return manifest


def encode_png(image: np.ndarray) -> bytes:
    """Encode a BGR uint8 image as PNG.

    Raises:
        RuntimeError: OpenCV refused.
    """
    done, encoded = cv2.imencode('.png', image)
    if not done:
        raise RuntimeError(f'OpenCV could not encode an image of shape {image.shape} as PNG')
    return encoded.tobytes()


def _write_folds(
    folder: Path,
    settings: SceneSettings,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> dict[str, int]:
    """Write both files of every fold and share; return the labelled images per share."""
    counts = {}
    labels: list[list[int]] = [[] for _ in images]
    for item in annotations:
        labels[item['image_id'] - 1].append(item['category_id'] - 1)
    for percent in settings.percent:
        for fold in range(1, settings.folds + 1):
            chosen = set(labelled_ids(settings, fold, percent, labels))
            stem = f'instances_train.{fold}@{percent:g}'
            _write_coco(
                folder / 'annotations' / 'semi' / f'{stem}.json',
                settings,
                [image for image in images if image['id'] in chosen],
                [item for item in annotations if item['image_id'] in chosen],
            )
            _write_coco(
                folder / 'annotations' / 'semi' / f'{stem}-unlabeled.json',
                settings,
                [image for image in images if image['id'] not in chosen],
                [],
            )
            counts[f'{percent:g}'] = len(chosen)
    return counts


def _write_coco(
    path: Path,
    settings: SceneSettings,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> None:
    source = OBJECTS[settings.objects]
    content = {
        'info': {'description': f'mmext {source.title}', 'version': str(GENERATOR_VERSION)},
        'licenses': [],
        'categories': source.categories,
        'images': images,
        'annotations': annotations,
    }
    path.write_text(json.dumps(content))
