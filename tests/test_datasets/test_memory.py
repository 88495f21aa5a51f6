"""Datasets in memory give what the host's datasets give, as samples and as whole batches."""

import numpy as np
import official_files
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, FUNCTIONS, init_default_scope
from mmengine.runner import Runner

PACK = dict(type='PackInputs')
JPEG = [dict(type='LoadImageFromFile'), PACK]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture
def folder(tmp_path):
    official_files.write_class_folders(tmp_path, train=3)
    return dict(type='CustomDataset', data_root=str(tmp_path), data_prefix='train')


def in_memory(dataset, pipeline, **settings):
    return DATASETS.build(
        dict(type='mmext.InMemoryDataset', dataset=dataset, pipeline=pipeline, **settings)
    )


def assert_same(found, wanted):
    assert torch.equal(found['inputs'], wanted['inputs'])
    one, other = found['data_samples'], wanted['data_samples']
    assert type(one) is type(other) and one.metainfo == other.metainfo
    assert torch.equal(one.gt_label, other.gt_label) and one.gt_label.dtype == torch.int64


def test_samples_are_those_of_the_host(folder, tmp_path):
    official_files.write_mnist(tmp_path / 'mnist')
    digits = dict(type='MNIST', data_root=str(tmp_path / 'mnist'), split='train')
    for dataset, pipeline in (
        (folder, JPEG),
        (digits, [dict(type='Resize', scale=32), PACK]),
    ):
        host = DATASETS.build({**dataset, 'pipeline': pipeline})
        memory = in_memory(dataset, pipeline)
        assert len(memory) == len(host) and memory.CLASSES == host.CLASSES
        for index in (0, 7, len(host) - 1, -1):
            assert_same(memory[index], host[index])
        assert np.array_equal(memory.get_gt_labels(), host.get_gt_labels())
        assert memory.get_cat_ids(5) == host.get_cat_ids(5)
        assert memory.get_data_info(7)['gt_label'] == host.get_data_info(7)['gt_label']


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_those_of_the_host(folder, workers):
    def batches(dataset, collate):
        loader = Runner.build_dataloader(
            dict(
                batch_size=7,
                num_workers=workers,
                collate_fn=dict(type=collate),
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dataset,
            ),
            seed=3,
        )
        return list(loader)

    wanted = batches(DATASETS.build({**folder, 'pipeline': JPEG}), 'default_collate')
    found = batches(in_memory(folder, JPEG), 'mmext.collate_batch')
    assert [len(batch['data_samples']) for batch in found] == [7, 7, 7, 7, 2]
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one['inputs'], other['inputs'])
        for sample, expected in zip(one['data_samples'], other['data_samples'], strict=True):
            assert sample.metainfo == expected.metainfo
            assert torch.equal(sample.gt_label, expected.gt_label)


def test_a_changed_batch_leaves_the_memory_alone(folder):
    memory = in_memory(folder, JPEG)
    before = memory.images.clone(), memory.labels.clone()
    for item in (memory[4], memory.__getitems__([4])):
        item['inputs'].zero_()
        samples = item['data_samples']
        for sample in samples if isinstance(samples, list) else [samples]:
            sample.gt_label.fill_(99)
    assert torch.equal(memory.images, before[0]) and torch.equal(memory.labels, before[1])


def test_collate_batch_stacks_samples_and_keeps_batches(folder):
    memory = in_memory(folder, JPEG)
    collate = FUNCTIONS.get('mmext.collate_batch')
    batch = memory.__getitems__([2, 9])
    assert collate(batch) is batch
    stacked = collate([memory[2], memory[9]])
    assert torch.equal(stacked['inputs'], batch['inputs'])
    assert torch.equal(stacked['inputs'], default_collate([memory[2], memory[9]])['inputs'])


def test_parts_of_each_class_are_disjoint_and_in_order(folder):
    whole = in_memory(folder, JPEG)
    first, last = in_memory(folder, JPEG, per_class=2), in_memory(folder, JPEG, per_class=-1)
    assert first.get_gt_labels().tolist() == [label for label in range(10) for _ in range(2)]
    order = [3 * label + place for label in range(10) for place in (0, 1)]
    assert torch.equal(first.images, whole.images[order])
    assert torch.equal(last.images, whole.images[2::3])
    # A part has its own numbering, like MMEngine's subsets.
    assert [last[index]['data_samples'].sample_idx for index in range(3)] == [0, 1, 2]


def test_indices_are_those_of_mmengine_after_the_parts(folder):
    for indices in (4, -4, [8, 1, 1]):
        host = DATASETS.build({**folder, 'pipeline': JPEG, 'indices': indices})
        memory = in_memory(folder, JPEG, indices=indices)
        assert len(memory) == len(host)
        for index in range(len(host)):
            assert_same(memory[index], host[index])
    both = in_memory(folder, JPEG, per_class=1, indices=-2)
    assert both.get_gt_labels().tolist() == [8, 9]


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match='RandomFlip draws random numbers.*CropFlipPreprocessor'):
        in_memory(folder, [JPEG[0], dict(type='RandomFlip', prob=0.5), PACK])
    with pytest.raises(ValueError, match='RandomCrop draws random'):
        in_memory(folder, [JPEG[0], dict(type='RandomCrop', crop_size=24), PACK])
    with pytest.raises(ValueError, match='move the pipeline'):
        in_memory({**folder, 'pipeline': JPEG}, JPEG)
    with pytest.raises(ValueError, match='per_class=4, but the smallest class has 3'):
        in_memory(folder, JPEG, per_class=4)
    with pytest.raises(ValueError, match='no images'):
        in_memory(folder, JPEG, indices=0)
    official_files.write_image(
        tmp_path / 'train' / 'truck' / 'z.jpg', np.random.default_rng(0), 40, 32
    )
    with pytest.raises(ValueError, match=r'image 30 is torch.uint8 \(3, 32, 40\).*add a Resize'):
        in_memory(folder, JPEG)
    unlabelled = {**folder, 'with_label': False}
    with pytest.raises(ValueError, match=r'sample 0 has \[\]; it must have one gt_label'):
        in_memory(unlabelled, JPEG)
