"""Office-31 and Office-Caltech-10 from tiny folders in the distributed layout."""

import logging

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmext.datasets.office import CLASSES, COUNTS


def write(root, domain, variant, layout='', images=1):
    for number, name in enumerate(CLASSES[variant]):
        folder = root / domain / layout / name
        folder.mkdir(parents=True)
        for index in range(images):
            image = np.full((6, 6, 3), number, np.uint8)
            cv2.imwrite(str(folder / f'frame_{index + 1:04d}.png'), image)


def build(root, domain='amazon', **settings):
    init_default_scope('mmpretrain')
    return DATASETS.build(
        dict(type='mmext.OfficeDataset', data_root=str(root), domain=domain, **settings)
    )


def test_the_sets_are_those_published():
    assert [len(CLASSES[variant]) for variant in ('office31', 'caltech10')] == [31, 10]
    assert all(list(names) == sorted(names) for names in CLASSES.values())
    assert set(CLASSES['caltech10']) < set(CLASSES['office31'])
    assert sum(COUNTS['office31'].values()) == 4110
    assert sum(COUNTS['caltech10'].values()) == 2533


@pytest.mark.parametrize(
    'domain, variant, layout',
    [('amazon', 'office31', 'images'), ('webcam', 'office31', ''), ('caltech', 'caltech10', '')],
)
def test_images_and_labels(tmp_path, domain, variant, layout):
    write(tmp_path, domain, variant, layout, images=2)
    dataset = build(tmp_path, domain, variant=variant,
                    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])  # fmt: skip
    count = len(CLASSES[variant])
    assert len(dataset) == 2 * count and dataset.metainfo['classes'] == CLASSES[variant]
    assert dataset.get_gt_labels().tolist() == sorted([*range(count)] * 2)
    packed = dataset[2 * 3 + 1]
    assert packed['data_samples'].gt_label.item() == 3 and int(packed['inputs'][0, 2, 2]) == 3


def test_another_number_of_images_is_a_warning(tmp_path, caplog, monkeypatch):
    write(tmp_path, 'dslr', 'office31')
    told = []
    monkeypatch.setattr(
        'mmext.datasets.office.print_log', lambda text, **kw: told.append((text, kw))
    )
    build(tmp_path, 'dslr')
    assert 'has 31 images, Office-31 dslr is published with 498' in told[0][0]
    assert told[0][1]['level'] == logging.WARNING
    told.clear()
    monkeypatch.setitem(COUNTS['office31'], 'dslr', 31)
    build(tmp_path, 'dslr')
    assert not told


def test_the_usual_wrong_folders_are_named(tmp_path):
    root = tmp_path / 'office31'
    write(root, 'amazon', 'office31', 'images')
    for wrong in (tmp_path, root / 'amazon', root / 'amazon' / 'images'):
        with pytest.raises(FileNotFoundError) as error:
            build(wrong)
        assert 'must hold the domains of Office-31 (amazon, dslr, webcam)' in str(error.value)
        assert f'data_root={str(root)!r}' in str(error.value)
    with pytest.raises(FileNotFoundError, match='dslr does not exist: data_root=.*must hold'):
        build(root, 'dslr')


def test_classes_are_checked(tmp_path):
    write(tmp_path / 'ten', 'amazon', 'caltech10')
    with pytest.raises(ValueError, match="10 classes of Office-Caltech-10.*variant='caltech10'"):
        build(tmp_path / 'ten')
    write(tmp_path / 'all', 'amazon', 'office31', 'images')
    with pytest.raises(ValueError, match="31 classes of Office-31.*variant='office31'"):
        build(tmp_path / 'all', variant='caltech10')
    (tmp_path / 'all/amazon/images/mug').rename(tmp_path / 'all/amazon/images/cup')
    with pytest.raises(ValueError, match='has 31 folders.*missing: mug; unknown: cup'):
        build(tmp_path / 'all')


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="variant='home'"):
        build(tmp_path, variant='home')
    with pytest.raises(ValueError, match="domain='caltech' must be one of amazon, dslr, webcam"):
        build(tmp_path, 'caltech')
