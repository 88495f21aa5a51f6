"""Fewer high-quality images: a part of a data set, the same for every run that names its seed."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank
from torch.utils.data import Dataset

from mmext.datasets.labels import labels_of
from mmext.engine.rng import derive_seed
from mmext.registry import DATASETS

PARTS = ('hq', 'lq')
LQ_SOURCES = ('removed', 'kept')


def split_indices(
    labels: np.ndarray, hq_ratio: float, seed: int
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Choose the images that stay of high quality, class by class.

    Of n images of a class, ``hq_ratio * n`` stay, rounded half up and at least one. What stays at
    0.7 contains what stays at 0.5 with the same seed.

    Args:
        labels: Of all images, (n,).
        hq_ratio: In (0, 1].
        seed: Any integer.

    Returns:
        Label -> indices that stay, and label -> indices that go, each in random order.
    """
    kept, removed = {}, {}
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng(derive_seed(seed, 'hq_subset', label)).permutation(members)
        count = max(math.floor(hq_ratio * len(members) + 0.5), 1)
        kept[label], removed[label] = order[:count], order[count:]
    return kept, removed


@DATASETS.register_module()
class HQSubset(Dataset):
    """The images of a data set that are there in high quality, or those of low quality.

    Each class loses the same share. ``part='hq'`` are the images that stay; ``part='lq'`` are a few
    of the removed ones, of which ``mmext.Degrade`` lets only a low-quality version through. Samples
    get ``is_hq`` before the pipeline runs.

    Args:
        dataset: Config of a data set of MMEngine's kind, or the data set itself.
        hq_ratio: Share of the images that stay, in (0, 1] (paper: 0.7).
        part: 'hq' or 'lq'.
        lq_ratio: Size of the 'lq' part as a share of the whole set, in (0, 1]; rounded up in each
            class (the paper says "a small number").
        lq_source: 'removed': 'lq' are removed images; 'kept': images that stay (ours).
        seed: Of the choice.
        index_file: JSON file of the choice: written by rank 0 if it is not there, else read and
            compared with the data.

    Raises:
        ValueError: An argument is out of its range, a class has no image, or ``index_file``
            belongs to other data or other arguments.

    Example:
        >>> dataset = dict(type='mmext.HQSubset', hq_ratio=0.7, part='hq',
        ...                dataset=dict(type='mmext.DigitsDataset', split='train', pipeline=...))
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        hq_ratio: float = 0.7,
        part: str = 'hq',
        lq_ratio: float = 0.1,
        lq_source: str = 'removed',
        seed: int = 0,
        index_file: str | None = None,
        lazy_init: bool = False,
    ) -> None:
        for name, value, known in (('part', part, PARTS), ('lq_source', lq_source, LQ_SOURCES)):
            if value not in known:
                raise ValueError(f'{name}={value!r} must be one of {", ".join(known)}')
        for name, share in (('hq_ratio', hq_ratio), ('lq_ratio', lq_ratio)):
            if not 0 < share <= 1:
                raise ValueError(f'{name}={share} must be in (0, 1]')
        if part == 'lq' and lq_source == 'removed' and lq_ratio > 1 - hq_ratio + 1e-9:
            raise ValueError(
                f'lq_ratio={lq_ratio} asks for more than the {1 - hq_ratio:g} of the images that '
                f'hq_ratio={hq_ratio} removes'
            )
        self.dataset: Any = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.hq_ratio = hq_ratio
        self.part = part
        self.lq_ratio = lq_ratio
        self.lq_source = lq_source
        self.seed = seed
        self.index_file = index_file
        self.indices: list[int] = []
        self._labels: np.ndarray = np.zeros(0, np.int64)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """That of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Choose the images."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        labels = labels_of(self.dataset)
        _check_classes(labels, self.metainfo.get('classes'))
        kept, removed = split_indices(labels, self.hq_ratio, self.seed)
        if self.index_file is not None:
            self._keep_index(labels, kept, removed)
        chosen = kept
        if self.part == 'lq':
            source = removed if self.lq_source == 'removed' else kept
            chosen = {
                label: members[: math.ceil(self.lq_ratio * np.count_nonzero(labels == label))]
                for label, members in source.items()
            }
        self.indices = sorted(int(i) for members in chosen.values() for i in members)
        self._labels = labels[self.indices]
        self._fully_initialized = True

    def __len__(self) -> int:
        """Return the number of images of the part."""
        return len(self.indices)

    def get_data_info(self, idx: int) -> dict:
        """Return what the pipeline starts from."""
        return {**self.dataset.get_data_info(self.indices[idx]), 'is_hq': self.part == 'hq'}

    def __getitem__(self, idx: int) -> Any:
        return self.dataset.pipeline(self.get_data_info(idx))

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of all samples, int64 (n,)."""
        return self._labels

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of a sample as a list of one, as samplers want it."""
        return [int(self._labels[idx])]

    def _keep_index(
        self, labels: np.ndarray, kept: dict[int, np.ndarray], removed: dict[int, np.ndarray]
    ) -> None:
        found = {
            'seed': self.seed,
            'hq_ratio': self.hq_ratio,
            'labels_sha256': hashlib.sha256(labels.tobytes()).hexdigest(),
            'hq': sorted(int(i) for members in kept.values() for i in members),
            'removed': sorted(int(i) for members in removed.values() for i in members),
        }
        path = Path(self.index_file or '')
        if path.exists():
            other = json.loads(path.read_text())
            wrong = [key for key, value in found.items() if other.get(key) != value]
            if wrong:
                raise ValueError(
                    f'{path} is the choice of other data or settings ({", ".join(wrong)} differ); '
                    'delete it or choose another index_file'
                )
        elif get_rank() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix('.tmp')
            draft.write_text(json.dumps(found) + '\n')
            os.replace(draft, path)


def _check_classes(labels: np.ndarray, classes: Sequence[str] | None) -> None:
    if not len(labels):
        raise ValueError('the data set of HQSubset is empty')
    missing = sorted(set(range(len(classes or ()))) - set(np.unique(labels).tolist()))
    if missing:
        names = ', '.join(str((classes or ())[label]) for label in missing[:10])
        raise ValueError(
            f'{len(missing)} of {len(classes or ())} classes have no image ({names}'
            f'{", ..." if len(missing) > 10 else ""}): complete the data or set its classes'
        )
