"""Invented data in the raw form that the hosts' own training pipelines load.

One photograph-sized noise image with four boxes, their masks and a semantic map lies in a folder;
every sample of every data set is that image. The pipelines of the configs read, crop, mask and pack
it themselves, so what reaches the model is what the host makes of it.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

WIDTH, HEIGHT, COUNT = 240, 192, 4
BOXES = ((10, 12, 90, 100), (110, 20, 230, 130), (60, 90, 160, 180), (20, 110, 80, 185))
#: Data sets that hold arrays instead of files -> shape of an image.
ARRAYS = {'MNIST': (28, 28), 'FashionMNIST': (28, 28), 'CIFAR10': (32, 32, 3),
          'CIFAR100': (32, 32, 3)}  # fmt: skip


def write_images(folder: Path) -> None:
    """Write the image and its semantic map once."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    image = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    semantic = np.full((HEIGHT, WIDTH), 255, np.uint8)
    for index, (x1, y1, x2, y2) in enumerate(BOXES):
        semantic[y1:y2, x1:x2] = index % 2
    cv2.imwrite(str(folder / 'image.jpg'), image)
    cv2.imwrite(str(folder / 'semantic.png'), semantic)


def sample(folder: Path, index: int, labels: int, multilabel: bool) -> dict[str, Any]:
    """Raw record of one image: the union of what the hosts' data sets hand to their pipelines."""
    instances = []
    for i, (x1, y1, x2, y2) in enumerate(np.array(BOXES, float).tolist()):
        instances.append({
            'bbox': [x1, y1, x2, y2], 'bbox_label': i % labels, 'ignore_flag': 0,
            'mask': [[x1, y1, x2, y1, x2, y2, x1, y2]], 'instance_id': i, 'is_group_of': False,
        })  # fmt: skip
    return {
        'img_path': str(folder / 'image.jpg'), 'img_id': index, 'frame_id': index,
        'height': HEIGHT, 'width': WIDTH, 'seg_map_path': str(folder / 'semantic.png'),
        'instances': instances, 'gt_label': [0, 1] if multilabel else index % min(labels, 2),
    }  # fmt: skip


@DATASETS.register_module(force=True)
class ZooDataset(BaseDataset):
    """The image of :func:`write_images`, :data:`COUNT` times.

    Args:
        folder: Where the image lies.
        shape: For pipelines that do not load a file, the shape of the array they get.
        kind: ``'image'``, ``'video'`` (records of four frames) or ``'reid'`` (lists of images).
        labels: Number of labels in use.
        multilabel: Several labels for an image.
        proposals: With boxes as a region proposal network would give them.
    """

    def __init__(
        self, folder: str, shape: tuple[int, ...] | None = None, kind: str = 'image',
        labels: int = 1, multilabel: bool = False, proposals: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.shape, self.kind = shape, kind
        self.labels, self.multilabel, self.proposals = labels, multilabel, proposals
        super().__init__(max_refetch=20, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Records of all samples."""
        records = [sample(self.folder, i, self.labels, self.multilabel) for i in range(COUNT)]
        for record in records:
            if self.shape is not None:
                del record['img_path']
                record['img'] = np.full(self.shape, 40 * record['img_id'], np.uint8)
            if self.proposals:
                boxes = np.array(BOXES * 8, np.float32)
                record['proposals'] = {'bboxes': boxes, 'scores': np.ones(32, np.float32)}
        if self.kind == 'video':
            return [{'video_id': i, 'video_length': COUNT, 'images': records} for i in range(COUNT)]
        if self.kind == 'reid':
            together = {key: [record[key] for record in records] for key in records[0]}
            return [{**together, 'gt_label': [np.int64(i // 2) for i in range(COUNT)]}] * COUNT
        return records

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of an image."""
        return list(range(self.labels))


def replace(node: Any, options: dict[str, Any]) -> Any:
    """Put :class:`ZooDataset` in the place of every data set of a dataset config.

    Wrappers that mix images or concatenate sources stay; those that only repeat samples go.
    """
    if 'datasets' in node:
        node.datasets = [replace(child, options) for child in node.datasets]
        return node
    if 'dataset' in node:
        inner = replace(node.dataset, options)
        if not str(node.type).endswith('MultiImageMixDataset'):
            return inner
        node.dataset = inner
        return node
    steps = node.get('pipeline') or []
    names = [str(step.get('type')) for step in steps]
    kinds = {'FrameSample': 'video', 'PackReID': 'reid'}
    kind = next((kinds[k] for k in kinds if any(k in name for name in names)), 'image')
    shape = ARRAYS.get(str(node.type).rpartition('.')[2])
    return ConfigDict(
        type='mmengine.ZooDataset', pipeline=steps, kind=kind, shape=shape,
        proposals='LoadProposals' in names, **options,
    )  # fmt: skip
