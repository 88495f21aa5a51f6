"""Endless sample streams that are pure functions of a position.

:class:`MultiSourceSampler` says which sample is the n-th of a rank, :class:`SeededConcatDataset`
makes its augmentation depend on nothing but n. Together they let a resumed run see the very
images an uninterrupted one would, with any number of dataloader workers.
"""

import math
from collections.abc import Iterator, Sequence, Sized
from fractions import Fraction
from typing import Any

import torch
from mmengine.dataset import ConcatDataset
from mmengine.dist import get_dist_info, get_rank, sync_random_seed
from torch.utils.data import Sampler

from mmext.engine.rng import derive_seed, isolated
from mmext.registry import DATA_SAMPLERS, DATASETS


class StreamIndex(int):
    """Index of a sample together with its place in the stream of a rank.

    It is used like the plain integer and keeps ``position`` on the way to a worker process.

    Args:
        index (int): Index into the dataset.
        position (int): Number of samples this rank drew before, over all epochs.
    """

    position: int

    def __new__(cls, index: int, position: int) -> 'StreamIndex':
        self = super().__new__(cls, index)
        self.position = position
        return self

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.position

    def __repr__(self) -> str:
        return f'StreamIndex({int(self)}, position={self.position})'


@DATA_SAMPLERS.register_module()
class MultiSourceSampler(Sampler):
    """Endless batches with a fixed number of samples of each source.

    The n-th sample of a rank is a pure function of the arguments, so a resumed run continues at
    once (:meth:`skip`). Epoch e of a source is one permutation for all ranks; rank r of R takes
    every R-th element of the endless concatenation of epochs, starting at r. So the ranks are
    disjoint within an epoch. In a batch, the samples of source 0 come first.

    Args:
        dataset (ConcatDataset): MMEngine's or any dataset with ``cumulative_sizes``.
        batch_size (int): Samples per rank and batch; the dataloader's ``batch_size``.
        source_ratio (sequence of float): Positive share of each source in a batch; rounded to
            whole samples by the largest remainder, the first source wins ties.
        seed (int, optional): Seed of the permutations, equal on all ranks. None draws one from
            NumPy's global state, which is repeatable under ``randomness=dict(seed=...)``.

    Raises:
        TypeError: ``dataset`` is no (fully initialised) concatenation.
        ValueError: Lengths differ, a source is empty, or a share rounds to 0.

    Example:
        >>> train_dataloader = dict(
        ...     batch_size=5,
        ...     sampler=dict(type='mmext.MultiSourceSampler', batch_size=5, source_ratio=[1, 4]),
        ...     dataset=dict(type='mmext.SeededConcatDataset', datasets=[labeled, unlabeled]))
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        source_ratio: Sequence[float],
        seed: int | None = None,
    ) -> None:
        ends = getattr(dataset, 'cumulative_sizes', None)
        if ends is None:
            raise TypeError(
                'dataset must be a ConcatDataset (with lazy_init=False), got '
                f'{type(dataset).__name__} without cumulative_sizes'
            )
        self.starts = [0, *ends[:-1]]
        self.sizes = [end - start for start, end in zip(self.starts, ends, strict=True)]
        if len(source_ratio) != len(self.sizes):
            raise ValueError(
                f'source_ratio has {len(source_ratio)} entries for {len(self.sizes)} datasets'
            )
        for source, size in enumerate(self.sizes):
            if size == 0:
                raise ValueError(f'dataset of source {source} is empty, nothing to sample from')
        self.dataset = dataset
        self.batch_size = batch_size
        self.source_counts = _split_batch(batch_size, source_ratio)
        self.rank, self.world_size = get_dist_info()
        self.seed = int(sync_random_seed() if seed is None else seed)
        self._offset = 0
        # Source and number within the source's part, for every slot of a batch.
        self._slots = [
            (source, number)
            for source, count in enumerate(self.source_counts)
            for number in range(count)
        ]
        # The current epoch's permutation of each source: a cache, not state.
        self._permutations: dict[int, tuple[int, list[int]]] = {}

    def __iter__(self) -> Iterator[StreamIndex]:
        position = self._offset
        while True:
            yield self.at(position)
            position += 1

    def __len__(self) -> int:
        """Return the size of the dataset; the stream itself has no end."""
        return len(self.dataset)

    def at(self, position: int) -> StreamIndex:
        """Return the sample at ``position`` (counted from 0) of this rank's stream.

        Costs O(1), plus a permutation of the source where its epoch changes.
        """
        batch, slot = divmod(position, self.batch_size)
        source, number = self._slots[slot]
        draw = batch * self.source_counts[source] + number
        epoch, element = divmod(draw * self.world_size + self.rank, self.sizes[source])
        cached_epoch, permutation = self._permutations.get(source, (-1, []))
        if cached_epoch != epoch:
            rng = torch.Generator().manual_seed(derive_seed(self.seed, 'source', source, epoch))
            permutation = torch.randperm(self.sizes[source], generator=rng).tolist()
            self._permutations[source] = epoch, permutation
        return StreamIndex(self.starts[source] + permutation[element], position)

    def skip(self, num_samples: int) -> None:
        """Let the following iterations start ``num_samples`` after the stream's beginning.

        Args:
            num_samples (int): Samples of this rank, counted from 0 and not from an earlier skip.

        Raises:
            ValueError: Negative or no whole number of batches.
        """
        if num_samples < 0 or num_samples % self.batch_size:
            raise ValueError(
                f'num_samples must be a multiple of batch_size={self.batch_size} and not '
                f'negative, got {num_samples}; sampler and dataloader need one batch_size'
            )
        self._offset = num_samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the stream counts its epochs itself."""


@DATASETS.register_module()
class SeededConcatDataset(ConcatDataset):
    """MMEngine's ConcatDataset whose random pipeline depends on the stream position only.

    For a :class:`StreamIndex` the pipeline runs with Python's, NumPy's and torch's CPU
    generators seeded from (seed, rank, position) and restores them afterwards: the same sample
    with 0 or n workers and after a resume. A plain integer behaves as in the parent. Costs about
    0.3 ms per sample.

    Args:
        datasets (sequence of dict or BaseDataset): The sources.
        lazy_init (bool): As in the parent.
        ignore_keys (list of str or str, optional): As in the parent.
        seed (int, optional): Seed of the augmentations; None as in :class:`MultiSourceSampler`.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        lazy_init: bool = False,
        ignore_keys: str | list[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(datasets, lazy_init=lazy_init, ignore_keys=ignore_keys)
        self.seed = int(sync_random_seed() if seed is None else seed)
        # A worker process has no process group to ask.
        self.rank = get_rank()

    def __getitem__(self, idx: int) -> Any:
        if not isinstance(idx, StreamIndex):
            return super().__getitem__(idx)
        with isolated(derive_seed(self.seed, 'sample', self.rank, idx.position)):
            return super().__getitem__(idx)


def _split_batch(batch_size: int, ratio: Sequence[float]) -> list[int]:
    """Split ``batch_size`` into positive whole numbers in proportion to ``ratio``."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f'batch_size must be a positive integer, got {batch_size!r}')
    if not all(0 < share < math.inf for share in ratio):
        raise ValueError(
            f'source_ratio must be positive and finite, got {list(ratio)}; leave out a dataset '
            'that is not to be used'
        )
    total = sum(map(Fraction, ratio))
    shares = [Fraction(share) / total for share in ratio]
    counts = _largest_remainder(batch_size, shares)
    if min(counts) == 0:
        # At this size even the smallest share is a whole sample.
        enough = math.ceil(1 / min(shares))
        smallest = next(
            size for size in range(1, enough + 1) if min(_largest_remainder(size, shares)) > 0
        )
        raise ValueError(
            f'source_ratio {list(ratio)} gives source {counts.index(0)} no sample in a batch of '
            f'{batch_size}; the smallest batch_size that works is {smallest}'
        )
    return counts


def _largest_remainder(batch_size: int, shares: Sequence[Fraction]) -> list[int]:
    exact = [batch_size * share for share in shares]
    counts = [math.floor(part) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda source: counts[source] - exact[source])
    for source in by_remainder[: batch_size - sum(counts)]:
        counts[source] += 1
    return counts
