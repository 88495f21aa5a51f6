"""Batches of labelled source and unlabelled target images."""

import math
from collections.abc import Iterator, Sequence, Sized
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS as HOST_DATASETS

from mmext.datasets.streams import MultiSourceSampler, SeededConcatDataset
from mmext.registry import DATA_SAMPLERS, DATASETS

from .drop_label import DropLabel

DOMAINS = ('source', 'target')


@DATASETS.register_module()
class TwoDomainDataset(SeededConcatDataset):
    """Source and target as one dataset, source first, for ``mmext.TwoDomainSampler``.

    Both must have the same classes in the same order; other meta information may differ. The
    pipeline of the target, of each part of one that is joined or wrapped, must begin with
    ``mmext.DropLabel``.

    Args:
        source: Config of the labelled dataset, or the dataset; wrappers as well
            (``ConcatDataset``, ``RepeatDataset`` ...).
        target: Config of the unlabelled dataset, or the dataset; wrappers as well.
        lazy_init: As in MMEngine's ``ConcatDataset``.
        seed: Of the augmentations, see ``mmext.SeededConcatDataset``.

    Raises:
        ValueError: A domain is missing, the classes differ, or the target keeps its labels.

    Example:
        >>> dataset = dict(type='mmext.TwoDomainDataset', source=labelled, target=unlabelled)
    """

    def __init__(
        self,
        source: dict | BaseDataset | None = None,
        target: dict | BaseDataset | None = None,
        lazy_init: bool = False,
        seed: int | None = None,
    ) -> None:
        given = dict(zip(DOMAINS, (source, target), strict=True))
        for name, dataset in given.items():
            if dataset is None:
                raise ValueError(
                    f'{name} is missing: domain adaptation needs a labelled source and an '
                    f'unlabelled target, {name}=dict(type=..., pipeline=...)'
                )
        datasets: list[Any] = [
            HOST_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
            for dataset in given.values()
        ]
        check_classes(datasets)
        for part in _parts(datasets[1]):
            steps = getattr(getattr(part, 'pipeline', None), 'transforms', ())
            if not (steps and isinstance(steps[0], DropLabel)):
                raise ValueError(
                    "the target's pipeline must begin with dict(type='mmext.DropLabel'), so that "
                    f'none of its labels reaches a loss; that of a {type(part).__name__} does not'
                )
        meta = {key for dataset in datasets for key in dataset.metainfo}
        # MMEngine takes wrappers from configs alone.
        given_back = [{'type': lambda dataset=dataset: dataset} for dataset in datasets]
        super().__init__(given_back, lazy_init, sorted(meta - {'classes'}), seed)


@DATA_SAMPLERS.register_module()
class TwoDomainSampler(MultiSourceSampler):
    """Endless batches [source ..., target ...], each rank with samples of its own.

    The n-th sample of a rank is a function of the arguments alone, so that ``skip`` continues a
    resumed run at once, see ``mmext.MultiSourceSampler``. It has no epochs: train by iterations.

    Args:
        dataset: ``mmext.TwoDomainDataset``, or another concatenation of two datasets.
        batch_size: Samples per rank and batch, those of both domains; the dataloader's.
        ratio: Shares of source and target in a batch, both > 0 (DAN, RTN, DANN: equal).
        seed: Of the order, see ``mmext.MultiSourceSampler``.

    Raises:
        TypeError: ``dataset`` is no concatenation.
        ValueError: It has not two domains, their classes differ, or a share is 0 or too small for
            the batch.

    Example:
        >>> train_dataloader = dict(
        ...     batch_size=64,
        ...     sampler=dict(type='mmext.TwoDomainSampler', batch_size=64),
        ...     dataset=dict(type='mmext.TwoDomainDataset', source=labelled, target=unlabelled))
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        ratio: Sequence[float] = (1, 1),
        seed: int | None = None,
    ) -> None:
        parts = getattr(dataset, 'datasets', None)
        if parts is not None and len(parts) != 2:
            raise ValueError(
                f'dataset has {len(parts)} parts, domain adaptation needs two, source and target; '
                'join those of one domain in a ConcatDataset'
            )
        if len(ratio) != 2 or not all(0 < share < math.inf for share in ratio):
            raise ValueError(
                f'ratio={tuple(ratio)} must be two shares above 0, of source and target; for '
                'training on the source alone remove da_losses instead'
            )
        if parts is not None:
            check_classes(parts)
        super().__init__(dataset, batch_size, ratio, seed)


def check_classes(datasets: Sequence[BaseDataset]) -> None:
    """Raise ValueError unless source and target have the same classes in the same order."""
    source, target = (tuple(dataset.metainfo.get('classes') or ()) for dataset in datasets)
    if source == target:
        return
    if sorted(source) == sorted(target):
        where = next(i for i, name in enumerate(source) if name != target[i])
        raise ValueError(
            'source and target have the same classes in another order, so that labels mean '
            f'different things: number {where} is {source[where]!r} in the source and '
            f'{target[where]!r} in the target; give both the same metainfo'
        )
    alone = [
        f'only in the {name}: {_shown(set(own) - set(other))}'
        for name, own, other in (('source', source, target), ('target', target, source))
        if set(own) - set(other)
    ]
    raise ValueError(
        f'source has {len(source)} classes and target {len(target)}, they must have the same; '
        + '; '.join(alone)
    )


def _parts(dataset: Any) -> Iterator[Any]:
    """The datasets below wrappers."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
        return
    for part in inner:
        yield from _parts(part)


def _shown(names: set[str]) -> str:
    listed = sorted(names)
    return ', '.join(listed[:10]) + (f' and {len(listed) - 10} more' if len(listed) > 10 else '')
