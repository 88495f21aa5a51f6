"""Classification images that are decoded once and then read as whole batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate
from torch import Tensor
from torch.utils.data import Dataset

from mmext.registry import DATASETS, FUNCTIONS


@DATASETS.register_module()
class InMemoryDataset(Dataset):
    """A classification dataset whose images are loaded once, as one uint8 tensor.

    Small images are read faster than a Python pipeline can prepare them one by one. Here the
    pipeline runs once for each image when the dataset is built; afterwards a batch is one gather
    from the tensor. Items and batches are those of the wrapped dataset, bit for bit, so the
    pipeline must not draw random numbers: ``mmext.CropFlipPreprocessor`` augments whole batches.
    Workers of a dataloader share the tensor with their parent (fork), but with 0 workers batches
    come faster, because nothing is sent between processes.

    Give the dataloader ``collate_fn=dict(type='mmext.collate_batch')``; with another one torch
    cannot use the whole batches.

    Args:
        dataset: Config of the dataset of a host, without a pipeline; each sample has one label.
        pipeline: Transforms that end in MMPretrain's ``PackInputs`` and give uint8 images of equal
            size.
        per_class: Keep the first n images of each class, or with -n the last n, in the order of
            the files: a training and a validation part of one set. None: all.
        indices: Keep of these the first n images, with -n the last n, or those with the numbers of
            a list, as in MMEngine's datasets. None: all.

    Raises:
        ValueError: The pipeline draws random numbers, the images differ in size or are no uint8
            tensors, a sample has no label or more than one, the dataset brings a pipeline of its
            own, a class has fewer images than ``per_class``, or no image is left.

    Cost: ``C * H * W`` bytes an image. On one core MNIST with 32 px takes 5 s to build, and the
    50,000 training images of CIFAR-10 as JPEG files 9 s.

    Example:
        >>> train_dataloader = dict(
        ...     batch_size=128, num_workers=0, collate_fn=dict(type='mmext.collate_batch'),
        ...     sampler=dict(type='DefaultSampler', shuffle=True),
        ...     dataset=dict(
        ...         type='mmext.InMemoryDataset',
        ...         dataset=dict(type='MNIST', data_root='data/mnist', split='train'),
        ...         pipeline=[dict(type='Resize', scale=32), dict(type='PackInputs')]))
    """

    def __init__(
        self,
        dataset: Mapping[str, Any],
        pipeline: Sequence[Any],
        per_class: int | None = None,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        if 'pipeline' in dataset:
            raise ValueError(
                'mmext.InMemoryDataset: move the pipeline of dataset into the pipeline beside it'
            )
        source = DATASETS.build({**dataset, 'pipeline': list(pipeline)})
        for transform in source.pipeline.transforms:
            if getattr(transform, '_methods_with_randomness', None):
                raise ValueError(
                    f'mmext.InMemoryDataset runs its pipeline once for each image, but '
                    f'{type(transform).__name__} draws random numbers: take it out; crops and '
                    "flips of batches has data_preprocessor=dict(type='mmext.CropFlipPreprocessor')"
                )
        chosen = _choose(source, per_class, indices)
        if not len(chosen):
            raise ValueError('mmext.InMemoryDataset: the dataset has no images')
        self._metainfo = source.metainfo
        self._sample_class: type = type(source[int(chosen[0])]['data_samples'])
        self._fields: list[dict[str, Any]] = []
        self.images, self.labels = self._load(source, chosen)
        # One object for all samples where they agree.
        self._common = {
            key: value
            for key, value in self._fields[0].items()
            if all(key in fields and fields[key] == value for fields in self._fields)
        }
        for fields in self._fields:
            for key in self._common:
                del fields[key]

    def _load(self, source: Any, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        images, labels = None, np.empty(len(chosen), np.int64)
        for index, number in enumerate(chosen.tolist()):
            item = source[number]
            image, sample = item['inputs'], item['data_samples']
            if images is None:
                images = torch.empty((len(chosen), *image.shape), dtype=torch.uint8)
            if image.dtype != torch.uint8 or image.shape != images.shape[1:]:
                raise ValueError(
                    f'mmext.InMemoryDataset: image {number} is {image.dtype} '
                    f'{tuple(image.shape)}, the first is {tuple(images.shape[1:])}; all must be '
                    'uint8 and equally large: add a Resize to the pipeline'
                )
            if sample.keys() != ['gt_label'] or sample.gt_label.numel() != 1:
                raise ValueError(
                    f'mmext.InMemoryDataset: sample {number} has {sample.keys()}; it must have one '
                    'gt_label and nothing else'
                )
            images[index] = image
            labels[index] = sample.gt_label.item()
            # Its number is its place here, as in MMEngine's subsets.
            self._fields.append(
                {key: sample.get(key) for key in sample.metainfo_keys() if key != 'sample_idx'}
            )
        return images, torch.from_numpy(labels)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the wrapped dataset, such as ``classes``."""
        return dict(self._metainfo)

    @property
    def CLASSES(self) -> Sequence[str] | None:  # noqa: N802 (MMPretrain's name)
        """Names of all classes."""
        return self._metainfo.get('classes')

    def full_init(self) -> None:
        """Do nothing: everything has been loaded."""

    def get_gt_labels(self) -> np.ndarray:
        """Return the labels of all samples, int64 ``(N,)``."""
        return self.labels.numpy().copy()

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of sample ``idx`` as a list of one, as samplers want it."""
        return [int(self.labels[idx])]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return label and meta information of sample ``idx``."""
        idx = range(len(self))[idx]
        fields = {**self._common, **self._fields[idx]}
        return {**fields, 'gt_label': int(self.labels[idx]), 'sample_idx': idx}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return ``{'inputs': uint8 (C, H, W), 'data_samples': DataSample}``."""
        idx = range(len(self))[idx]
        label = self.labels[idx].clone().reshape(1)
        return {'inputs': self.images[idx].clone(), 'data_samples': self._sample(idx, label)}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the batch ``{'inputs': uint8 (N, C, H, W), 'data_samples': list}``."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return {
            'inputs': self.images.index_select(0, chosen),
            'data_samples': [
                self._sample(index, label)
                for index, label in zip(indices, self.labels[chosen].split(1), strict=True)
            ],
        }

    def _sample(self, index: int, label: Tensor) -> Any:
        sample = self._sample_class()
        # Not the constructor's metainfo, which is copied deeply.
        for fields in (self._common, self._fields[index]):
            for key, value in fields.items():
                sample.set_field(value, key, field_type='metainfo')
        sample.set_field(int(index), 'sample_idx', field_type='metainfo')
        sample.set_gt_label(label)
        return sample


def _choose(source: Any, per_class: int | None, indices: int | Sequence[int] | None) -> np.ndarray:
    """Numbers of the images to keep."""
    chosen = np.arange(len(source))
    if per_class is not None:
        labels = source.get_gt_labels()
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        fewest = min(map(len, members), default=0)
        if not 0 < abs(per_class) <= fewest:
            raise ValueError(
                f'mmext.InMemoryDataset: per_class={per_class}, but the smallest class has '
                f'{fewest} images'
            )
        kept = slice(per_class) if per_class > 0 else slice(per_class, None)
        chosen = np.sort(np.concatenate([numbers[kept] for numbers in members]))
    if indices is None:
        return chosen
    if isinstance(indices, int):
        return chosen[:indices] if indices >= 0 else chosen[indices:]
    return chosen[np.asarray(indices, np.int64)]


@FUNCTIONS.register_module()
def collate_batch(samples: Any) -> Any:
    """Leave what is a batch already as it is; else as MMEngine's ``default_collate``.

    Args:
        samples: Batch of a dataset that gives whole batches, or a list of samples.

    Returns:
        A batch.
    """
    return samples if isinstance(samples, Mapping) else default_collate(samples)
