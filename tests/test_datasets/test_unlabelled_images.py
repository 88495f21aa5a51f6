"""Images without labels, from a folder or a COCO file."""

import json

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS

from mmext.datasets.unlabelled_images import unlabelled_paths

NAMES = ('b.jpg', 'a.PNG', 'deeper/c.webp', 'notes.txt', '.hidden.png', '.checkpoints/a.png')


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode('.png', np.zeros((4, 6, 3), np.uint8))[1].tobytes())
    return tmp_path / 'photos'


def names(found, folder):
    return [path.removeprefix(f'{folder}/') for path in found]


def test_a_folder_is_read_with_its_folders_and_without_hidden_files(folder):
    assert names(unlabelled_paths(str(folder)), folder) == ['a.PNG', 'b.jpg', 'deeper/c.webp']


def test_images_of_other_sources_are_left_out_by_any_path(folder, tmp_path):
    (tmp_path / 'linked').symlink_to(folder)
    listed = tmp_path / 'labels.json'
    listed.write_text(json.dumps({'images': [{'file_name': 'deeper/../b.jpg'}]}))
    source = {'img': str(tmp_path / 'linked'), 'ann_file': str(listed)}
    kept = unlabelled_paths(str(folder), exclude=[source])
    assert names(kept, folder) == ['a.PNG', 'deeper/c.webp']
    with pytest.raises(ValueError, match='photos has no image that has no labels already'):
        unlabelled_paths(str(folder), exclude=[{'img': str(folder)}])
    with pytest.raises(ValueError, match='deeper/none has no image$'):
        (folder / 'deeper/none').mkdir()
        unlabelled_paths(str(folder / 'deeper/none'))


def test_the_dataset_loads_them_with_ids_and_no_instances(folder, tmp_path):
    listed = tmp_path / 'all.json'
    listed.write_text(json.dumps({'images': [{'file_name': n} for n in ('b.jpg', 'a.PNG')]}))
    for ann_file, expected in (('', ['a.PNG', 'b.jpg', 'deeper/c.webp']),
                               (str(listed), ['b.jpg', 'a.PNG'])):  # fmt: skip
        dataset = DATASETS.build(
            dict(
                type='mmext.UnlabelledImages',
                ann_file=ann_file,
                data_prefix=dict(img=str(folder)),
                metainfo=dict(classes=('x',)),
                pipeline=[dict(type='LoadImageFromFile')],
            )
        )
        samples = [dataset[index] for index in range(len(dataset))]
        assert names([sample['img_path'] for sample in samples], folder) == expected
        assert [sample['img_id'] for sample in samples] == list(range(len(expected)))
        assert all(sample['img'].shape == (4, 6, 3) for sample in samples)
        assert all(sample['instances'] == [] for sample in samples)
        assert dataset.metainfo['classes'] == ('x',)
