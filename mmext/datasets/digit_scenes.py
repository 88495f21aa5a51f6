"""Digit scenes: a small detection benchmark in COCO format, made offline from real images.

One to three of scikit-learn's handwritten digits lie on crops of scikit-image's photos and
textures. The splits share neither digits nor photos. The labelled part of a fold is drawn without
replacement, so "10 %" is 10 %.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import track

from mmext.datasets import rendering
from mmext.datasets.digits import handwritten_digits

#: Raised whenever equal settings give other data.
GENERATOR_VERSION = 1

_SIDES = (18, 42)
_MAX_DIGITS = 3
_MIN_SIZE = 48
_CATEGORIES = [{'id': i + 1, 'name': str(i), 'supercategory': 'digit'} for i in range(10)]


@dataclass(frozen=True)
class SceneSettings:
    """Everything the content of the data set depends on.

    Args:
        size: Height and width of a scene in pixels, >= 48.
        train: Number of training scenes, >= 1.
        val: Number of validation scenes, >= 1.
        test: Number of test scenes, >= 1.
        percent: Labelled shares of the training scenes in percent, each in (0, 100], distinct.
        folds: Number of draws of each labelled share, >= 1.
        seed: Seed, >= 0.

    Raises:
        ValueError: A value is out of its range.
    """

    size: int = 80
    train: int = 2000
    val: int = 300
    test: int = 300
    percent: tuple[float, ...] = (2.0, 10.0)
    folds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < _MIN_SIZE:
            raise ValueError(
                f'size must be at least {_MIN_SIZE} pixels (digits have up to {_SIDES[1]}), '
                f'got {self.size}'
            )
        for name in (*rendering.SPLITS, 'folds'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')
        object.__setattr__(self, 'percent', tuple(float(value) for value in self.percent))
        for value in self.percent:
            if not 0 < value <= 100:
                raise ValueError(f'percent must be in (0, 100], got {value:g}')
        if len({f'{value:g}' for value in self.percent}) < len(self.percent):
            raise ValueError(f'percent names a share twice: {list(self.percent)}')


def render_digit_scene(
    split: str, settings: SceneSettings, index: int
) -> tuple[rendering.Scene, np.ndarray]:
    """Render scene number ``index`` (from 0) of a split.

    Depends on the split, the seed, the size and the index alone; not on how many scenes there
    are. Costs a few ms at 80 pixels.

    Returns:
        The scene, and the label 0..9 of each of its boxes, int64 ``(n,)``.
    """
    rng = np.random.default_rng([settings.seed, rendering.SPLITS.index(split), index])
    images, labels = handwritten_digits(split)
    chosen = rng.integers(len(labels), size=rng.integers(1, _MAX_DIGITS + 1))
    scene = rendering.compose_scene(
        rng,
        rendering.load_backgrounds(split),
        [rendering.glyph_from_digit(images[i]) for i in chosen],
        settings.size,
        _SIDES,
    )
    return scene, labels[chosen[scene.kept]]


def labelled_ids(settings: SceneSettings, fold: int, percent: float) -> list[int]:
    """Draw the labelled training images of one fold, without replacement.

    Exactly ``max(1, round(train * percent / 100))`` images. Within a fold a smaller share is part
    of a larger one, folds are independent draws.

    Args:
        settings: Uses ``train`` and ``seed``.
        fold: Number of the fold, from 1.
        percent: Share in (0, 100].

    Returns:
        Sorted image ids, which count from 1.
    """
    rng = np.random.default_rng([settings.seed, len(rendering.SPLITS), fold])
    count = max(1, round(settings.train * percent / 100))
    return sorted(int(i) + 1 for i in rng.permutation(settings.train)[:count])


def generate(
    out: str | os.PathLike, settings: SceneSettings, force: bool = False
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
        force: Replace digit scenes that are there with other settings or are damaged.

    Returns:
        The manifest and whether anything was written.

    Raises:
        FileExistsError: ``out`` holds other scenes, or damaged ones, and ``force`` is False; or
            it holds something else, which is never removed.
    """
    out = Path(out).resolve()
    present = _read_manifest(out)
    if present is not None and not force:
        wanted = {'generator_version': GENERATOR_VERSION, 'settings': _as_json(settings)}
        differing = [key for key in wanted if present.get(key) != wanted[key]]
        if differing:
            was = ', '.join(f'{key} {present.get(key)}' for key in differing)
            raise FileExistsError(
                f'{out} holds digit scenes of other settings ({was}); pass --force to replace '
                'them, or another --out'
            )
        damaged = next(_damages(out, present), None)
        if damaged:
            raise FileExistsError(f'{out}: {damaged}; pass --force to generate it again')
        print_log(f'{out} is complete with these settings: nothing to do', logger='current')
        return present, False

    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    try:
        # mkdtemp makes folders that other users cannot read.
        fresh = work / 'new'
        fresh.mkdir()
        manifest = _write(fresh, settings)
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
    boxes = ', '.join(
        f'{split} {manifest["counts"][split]["images"]} images with '
        f'{manifest["counts"][split]["boxes"]} boxes'
        for split in rendering.SPLITS
    )
    print_log(f'wrote {out}: {boxes}', logger='current')
    return manifest, True


def _as_json(settings: SceneSettings) -> dict[str, Any]:
    return {**asdict(settings), 'percent': sorted(settings.percent)}


def _read_manifest(out: Path) -> dict[str, Any] | None:
    """Return the manifest of digit scenes at ``out``; None if nothing is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        manifest = json.loads((out / 'manifest.json').read_text())
        is_ours = manifest['generator'] == 'digit_scenes'
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise FileExistsError(f'{out} is not empty and holds no digit scenes: pass another --out')
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


def _write(folder: Path, settings: SceneSettings) -> dict[str, Any]:
    """Write images, annotations and manifest into an empty folder; return the manifest."""
    counts: dict[str, Any] = {}
    images_digest = hashlib.sha256()
    (folder / 'annotations' / 'semi').mkdir(parents=True)
    console = Console(stderr=True)
    for split in rendering.SPLITS:
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in track(
            range(getattr(settings, split)),
            description=split,
            console=console,
            disable=not console.is_terminal,
        ):
            scene, labels = render_digit_scene(split, settings, index)
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
        _write_coco(path, images, annotations)
        counts[split] = {'images': len(images), 'boxes': len(annotations)}
        if split == 'train':
            counts['labelled'] = _write_folds(folder, settings, images, annotations)

    files = sorted((folder / 'annotations').rglob('*.json'))
    manifest = {
        'generator': 'digit_scenes',
        'generator_version': GENERATOR_VERSION,
        'settings': _as_json(settings),
        'counts': counts,
        'annotations_sha256': {
            path.relative_to(folder).as_posix(): _sha256([path]) for path in files
        },
        # Of the PNG files of train, val and test, in this order and by name.
        'images_sha256': images_digest.hexdigest(),
        'backgrounds': {split: list(names) for split, names in rendering.BACKGROUNDS.items()},
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
    for percent in settings.percent:
        for fold in range(1, settings.folds + 1):
            chosen = set(labelled_ids(settings, fold, percent))
            stem = f'instances_train.{fold}@{percent:g}'
            _write_coco(
                folder / 'annotations' / 'semi' / f'{stem}.json',
                [image for image in images if image['id'] in chosen],
                [item for item in annotations if item['image_id'] in chosen],
            )
            _write_coco(
                folder / 'annotations' / 'semi' / f'{stem}-unlabeled.json',
                [image for image in images if image['id'] not in chosen],
                [],
            )
            counts[f'{percent:g}'] = len(chosen)
    return counts


def _write_coco(
    path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> None:
    content = {
        'info': {'description': 'mmext digit scenes', 'version': str(GENERATOR_VERSION)},
        'licenses': [],
        'categories': _CATEGORIES,
        'images': images,
        'annotations': annotations,
    }
    path.write_text(json.dumps(content))
