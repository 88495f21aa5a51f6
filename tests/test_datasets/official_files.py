"""Tiny sets of images in the layouts of the official ones."""

import json
import pickle

import cv2
import numpy as np
from tiny_sets import write_pairs

CIFAR10_CLASSES = (
    'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip


def write_mnist(folder, train=40, test=20, seed=0):
    """MNIST's four files; labels count 0, 1, ..., 9, 0, ...; returns images by split."""
    draws = np.random.default_rng(seed)
    counts = {'train': train, 't10k': test}
    images = {
        part: draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for part, count in counts.items()
    }
    write_pairs(folder, images, {part: np.arange(count) % 10 for part, count in counts.items()})
    return {'train': images['train'], 'test': images['t10k']}


def write_cifar10(folder, per_batch=20, seed=0):
    """CIFAR-10's pickles; returns images (N, 32, 32, 3) RGB and labels by split."""
    inner = folder / 'cifar-10-batches-py'
    inner.mkdir(parents=True)
    draws = np.random.default_rng(seed)
    labels = np.arange(per_batch) % 10
    images = {}
    for name in (*(f'data_batch_{number}' for number in range(1, 6)), 'test_batch'):
        data = draws.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        content = {'data': data, 'labels': labels.tolist(), 'batch_label': name}
        (inner / name).write_bytes(pickle.dumps(content))
        images[name] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    (inner / 'batches.meta').write_bytes(pickle.dumps({'label_names': list(CIFAR10_CLASSES)}))
    train = np.concatenate([images[f'data_batch_{number}'] for number in range(1, 6)])
    return {'train': (train, np.tile(labels, 5)), 'test': (images['test_batch'], labels)}


def write_image(path, draws, width=32, height=32):
    """Coarse patches of colour, which JPEG keeps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (width, height)))


def write_class_folders(folder, train=4, test=2, seed=0):
    """``train/<class>/0000.jpg`` and so on, so many images a class."""
    draws = np.random.default_rng(seed)
    for split, count in (('train', train), ('test', test)):
        for name in CIFAR10_CLASSES:
            for number in range(count):
                write_image(folder / split / name / f'{number:04d}.jpg', draws)


def write_voc(folder, seed=0):
    """BCCD's layout with 2, 1 and 1 images; returns image -> boxes (name, x1, y1, x2, y2)."""
    draws = np.random.default_rng(seed)
    splits = {'train': ['a', 'b'], 'val': ['c'], 'test': ['d'], 'trainval': ['a', 'b', 'c']}
    root = folder / 'BCCD'
    for sub in ('Annotations', 'ImageSets/Main'):
        (root / sub).mkdir(parents=True)
    for split, images in splits.items():
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(images) + '\n')
    boxes = {
        'a': [('RBC', 11, 21, 101, 121), ('Platelets', 301, 201, 341, 241)],
        'b': [('WBC', 101, 101, 301, 301)],
        'c': [('RBC', 1, 1, 101, 101), ('WBC', 201, 201, 401, 401)],
        'd': [('Platelets', 51, 61, 91, 101)],
    }
    for image, objects in boxes.items():
        write_image(root / f'JPEGImages/{image}.jpg', draws, 640, 480)
        text = ''.join(
            f'<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin>'
            f'<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
            for name, x1, y1, x2, y2 in objects
        )
        size = '<size><width>640</width><height>480</height><depth>3</depth></size>'
        (root / f'Annotations/{image}.xml').write_text(f'<annotation>{size}{text}</annotation>')
    return boxes


def write_coco(folder, classes, seed=0):
    """FOD-A's layout, one image and box a split, of the classes 4, 5 and 6."""
    draws = np.random.default_rng(seed)
    (folder / 'annotations').mkdir(parents=True)
    for number, split in enumerate(('train', 'val', 'test')):
        write_image(folder / split / '000000.jpg', draws, 224, 224)
        x, y, width, height = 20.0 + number, 30.0, 50.0, 60.0
        annotation = {
            'id': 1,
            'image_id': 1,
            'category_id': 4 + number,
            'bbox': [x, y, width, height],
            'area': width * height,
            'iscrowd': 0,
        }
        content = {
            'images': [{'id': 1, 'file_name': '000000.jpg', 'width': 224, 'height': 224}],
            'categories': [{'id': key + 1, 'name': name} for key, name in enumerate(classes)],
            'annotations': [annotation],
        }
        (folder / f'annotations/{split}.json').write_text(json.dumps(content))
