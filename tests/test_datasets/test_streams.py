"""Streams against the definition: an explicit endless concatenation of permutations."""

import pickle
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset
from torch.utils.data import DataLoader

from mmext.datasets import streams
from mmext.datasets.streams import MultiSourceSampler, SeededConcatDataset, StreamIndex
from mmext.engine.rng import derive_seed
from mmext.registry import DATA_SAMPLERS, DATASETS


class Source(BaseDataset):
    """A numbered source whose pipeline draws from all global generators."""

    def __init__(self, name, size):
        self.name, self.size = name, size
        # Serialising runs the garbage collector, which is slow here.
        super().__init__(pipeline=[self.augment], serialize_data=False)

    def load_data_list(self):
        return [{'value': index} for index in range(self.size)]

    def augment(self, data):
        draws = [random.random(), np.random.rand(), torch.rand(()).item()]
        return {'value': data['value'], 'name': self.name, 'draws': torch.tensor(draws)}


def sources(*sizes):
    return [Source(index, size) for index, size in enumerate(sizes)]


def sampler(sizes=(4, 7), batch_size=5, ratio=(2, 3), seed=3, **rank):
    result = MultiSourceSampler(ConcatDataset(sources(*sizes)), batch_size, ratio, seed=seed)
    for name, value in rank.items():
        setattr(result, name, value)
    return result


def take(iterable, count):
    return [item for item, _ in zip(iterable, range(count), strict=False)]


def test_names_are_registered():
    assert DATA_SAMPLERS.get('mmext.MultiSourceSampler') is MultiSourceSampler
    assert DATASETS.get('mmext.SeededConcatDataset') is SeededConcatDataset


def test_stream_index_is_an_int_that_keeps_its_position():
    index = pickle.loads(pickle.dumps(StreamIndex(3, 10)))
    assert (index, index.position, index + 1) == (3, 10, 4)
    assert isinstance(index, int) and 'position=10' in repr(index)


@pytest.mark.parametrize('world_size', [1, 2, 9])
def test_stream_equals_its_definition(world_size):
    parts = [(0, 4, (0, 1)), (4, 7, (2, 3, 4))]  # start, size and slots in a batch
    endless: list[list[int]] = [[], []]
    for source, (start, size, _) in enumerate(parts):
        for epoch in range(30):
            rng = torch.Generator().manual_seed(derive_seed(3, 'source', source, epoch))
            endless[source] += (start + torch.randperm(size, generator=rng)).tolist()
    for rank in range(world_size):
        stream = take(sampler((4, 7), rank=rank, world_size=world_size), 30)
        for source, (_, _, slots) in enumerate(parts):
            drawn = [int(index) for number, index in enumerate(stream) if number % 5 in slots]
            assert drawn == endless[source][rank::world_size][: len(drawn)]
            assert len(drawn) == 6 * len(slots)
        assert [index.position for index in stream] == list(range(30))


def test_ranks_are_disjoint_and_cover_each_epoch():
    size, world_size = 12, 3
    ranks = [
        take(sampler((size, 5), 2, (1, 1), rank=rank, world_size=world_size), 2 * 8)[::2]
        for rank in range(world_size)
    ]
    for epoch in range(2):
        drawn = [index for rank in ranks for index in rank[4 * epoch : 4 * epoch + 4]]
        assert sorted(drawn) == list(range(size))
    epochs = [[rank[:4] for rank in ranks], [rank[4:] for rank in ranks]]
    assert epochs[0] != epochs[1]


def test_skip_continues_the_stream_and_is_absolute():
    whole = take(sampler(), 100)
    resumed = sampler()
    for start in (65, 10, 0):
        resumed.skip(start)
        assert take(resumed, 20) == whole[start : start + 20]
        assert take(resumed, 1)[0].position == start
    # O(1): far away within the test's time limit.
    resumed.skip(5 * 10**12)
    assert take(resumed, 1)[0].position == 5 * 10**12
    for wrong in (3, -5):
        with pytest.raises(ValueError, match='batch_size=5'):
            resumed.skip(wrong)


def test_seed_selects_the_stream():
    assert take(sampler(seed=1), 50) != take(sampler(seed=2), 50)
    streams_of_none = []
    for _ in range(2):
        np.random.seed(0)
        streams_of_none.append(take(sampler(seed=None), 50))
    assert streams_of_none[0] == streams_of_none[1]


@pytest.mark.parametrize(
    ('batch_size', 'ratio', 'counts'),
    [
        (5, (1, 4), [1, 4]),
        (8, (1, 1, 1), [3, 3, 2]),
        (7, (0.5, 0.5), [4, 3]),
        (10, (1, 2, 4), [1, 3, 6]),
        (3, (1, 2, 3), [1, 1, 1]),
    ],
)
def test_largest_remainder(batch_size, ratio, counts):
    # Counts are worked out by hand from batch_size * ratio / sum(ratio).
    result = sampler([3] * len(ratio), batch_size, ratio)
    assert result.source_counts == counts
    own = Counter(index // 3 for index in take(result, batch_size))
    assert [own[source] for source in range(len(ratio))] == counts


def test_wrong_arguments():
    with pytest.raises(ValueError, match='source 0 no sample.*works is 6'):
        sampler(batch_size=5, ratio=(1, 10))
    assert sampler(batch_size=6, ratio=(1, 10)).source_counts == [1, 5]
    with pytest.raises(ValueError, match='source 1 is empty'):
        MultiSourceSampler(SimpleNamespace(cumulative_sizes=[3, 3]), 2, [1, 1])
    with pytest.raises(ValueError, match='3 entries for 2'):
        sampler(ratio=(1, 2, 3))
    for ratio in [(0, 1), (-1, 2), (float('nan'), 1)]:
        with pytest.raises(ValueError, match='positive and finite'):
            sampler(ratio=ratio)
    with pytest.raises(ValueError, match='batch_size'):
        sampler(batch_size=0)
    with pytest.raises(TypeError, match='ConcatDataset'):
        MultiSourceSampler(Source(0, 3), 2, [1])


def test_len_is_the_datasets_and_set_epoch_changes_nothing():
    endless = sampler()
    assert len(endless) == 11
    before = take(endless, 30)
    endless.set_epoch(4)
    assert take(endless, 30) == before


def batches(num_workers, skip=0, count=4, rank=None, monkeypatch=None):
    if rank is not None:
        monkeypatch.setattr(streams, 'get_rank', lambda: rank)
    dataset = SeededConcatDataset(sources(4, 7), seed=1)
    order = MultiSourceSampler(dataset, 5, [2, 3], seed=3)
    order.skip(skip)
    loader = DataLoader(dataset, 5, sampler=order, num_workers=num_workers)
    return [{key: value.tolist() for key, value in batch.items()} for batch in take(loader, count)]


def test_augmentation_is_a_function_of_the_position_alone():
    whole = batches(0)
    assert batches(2) == whole
    assert batches(0, skip=10, count=2) == whole[2:]
    draws = [tuple(draw) for batch in whole for draw in batch['draws']]
    assert len(set(draws)) == len(draws) == 20
    assert all(batch['name'] == [0, 0, 1, 1, 1] for batch in whole)


def test_augmentation_differs_between_ranks(monkeypatch):
    def draws(rank):
        return [batch['draws'] for batch in batches(0, rank=rank, monkeypatch=monkeypatch)]

    assert draws(1) == draws(1) != draws(0)


def test_plain_integers_and_global_state_are_left_alone():
    dataset, parent = SeededConcatDataset(sources(4, 7), seed=1), ConcatDataset(sources(4, 7))

    def draw(data, index):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(7)
        item = data[index]
        return item['value'], item['name'], item['draws'].tolist(), random.random()

    assert draw(dataset, 5) == draw(parent, 5)
    seeded = draw(dataset, StreamIndex(5, 0))
    assert seeded[:2] == draw(parent, 5)[:2] and seeded[2] != draw(parent, 5)[2]
    random.seed(7)
    assert seeded[3] == random.random()
    assert len(dataset) == 11 and dataset.cumulative_sizes == [4, 11]
