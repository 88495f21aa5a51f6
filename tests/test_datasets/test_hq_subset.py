"""The high-quality part of a data set: same share of every class, same for every run."""

import json

import numpy as np
import pytest
from mmengine.dataset import BaseDataset

from mmext.datasets.hq_subset import HQSubset, split_indices


class Toy(BaseDataset):
    """Class c has ``counts[c]`` images; the image holds its number."""

    def __init__(self, counts=(10, 20, 5), classes=None, **kwargs):
        self.counts = counts
        names = classes or tuple('abcdefgh'[: len(counts)])
        super().__init__(metainfo=dict(classes=names), serialize_data=False, **kwargs)

    def load_data_list(self):
        labels = np.repeat(np.arange(len(self.counts)), self.counts)
        return [{'img': np.full((2, 2), i), 'gt_label': int(c)} for i, c in enumerate(labels)]


def numbers(subset):
    return [int(subset[i]['img'][0, 0]) for i in range(len(subset))]


def test_every_class_keeps_the_same_share():
    subset = HQSubset(Toy(), hq_ratio=0.7)
    assert np.bincount(subset.get_gt_labels()).tolist() == [7, 14, 4], '3.5 is rounded up'
    assert len(subset) == 25 and len(set(numbers(subset))) == 25
    assert subset.metainfo['classes'] == ('a', 'b', 'c')
    assert [subset.get_cat_ids(i)[0] for i in range(25)] == subset.get_gt_labels().tolist()
    assert all(subset[i]['is_hq'] is True for i in range(25))


def test_low_quality_images_come_from_the_removed_ones():
    data = Toy()
    hq, lq = (HQSubset(data, 0.7, part=part, lq_ratio=0.2) for part in ('hq', 'lq'))
    assert np.bincount(lq.get_gt_labels()).tolist() == [2, 4, 1]
    assert not set(numbers(hq)) & set(numbers(lq))
    assert all(lq[i]['is_hq'] is False for i in range(len(lq)))
    kept = HQSubset(data, 0.7, part='lq', lq_ratio=0.2, lq_source='kept')
    assert set(numbers(kept)) < set(numbers(hq))


def test_the_choice_is_that_of_the_seed_and_smaller_parts_lie_in_larger_ones():
    first, again, other = (numbers(HQSubset(Toy(), 0.5, seed=s)) for s in (0, 0, 1))
    assert first == again != other
    assert set(first) < set(numbers(HQSubset(Toy(), 0.7)))
    assert numbers(HQSubset(Toy(), 1.0)) == list(range(35))


def test_a_class_keeps_at_least_one_image():
    kept, removed = split_indices(np.array([0, 0, 0, 1]), 0.1, seed=0)
    assert len(kept[0]) == len(kept[1]) == 1 and len(removed[1]) == 0


def test_the_index_file_keeps_the_choice(tmp_path):
    path = tmp_path / 'sub/index.json'
    made = HQSubset(Toy(), 0.7, index_file=str(path))
    found = json.loads(path.read_text())
    assert found['hq'] == made.indices and len(found['removed']) == 10
    assert not path.with_suffix('.tmp').exists()
    assert HQSubset(Toy(), 0.7, part='lq', index_file=str(path)).indices[0] in found['removed']
    for settings in (dict(hq_ratio=0.6), dict(seed=1), dict(dataset=Toy((10, 20, 6)))):
        with pytest.raises(ValueError, match='other data or settings'):
            HQSubset(**{'dataset': Toy(), 'index_file': str(path), **settings})


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(hq_ratio=0), r'hq_ratio=0 must be in \(0, 1\]'),
        (dict(hq_ratio=1.2), 'hq_ratio=1.2'),
        (dict(part='both'), 'hq, lq'),
        (dict(part='lq', lq_ratio=0.4), 'more than the 0.3'),
        (dict(lq_source='elsewhere'), 'removed, kept'),
        (dict(dataset=Toy((4, 0, 4))), r'1 of 3 classes have no image \(b\)'),
        (dict(dataset=Toy((4, 4), classes=('a', 'b', 'c'))), r'no image \(c\)'),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        HQSubset(**{'dataset': Toy(), **settings})


def test_a_data_set_without_labels_is_refused():
    class Bare(BaseDataset):
        def load_data_list(self):
            return [{'img': 0}]

    with pytest.raises(ValueError, match='without gt_label'):
        HQSubset(Bare())
