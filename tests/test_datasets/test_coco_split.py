import json

import pytest

from mmext.datasets.coco_split import draw_labelled, split_coco


@pytest.fixture
def annotations(tmp_path):
    """200 images with ids that are no positions; image i has i % 3 boxes."""
    images = [dict(id=1000 - 3 * i, file_name=f'{i}.jpg') for i in range(200)]
    boxes = [image['id'] for i, image in enumerate(images) for _ in range(i % 3)]
    content = dict(
        info=dict(year=2017),
        images=images,
        annotations=[dict(id=n, image_id=image) for n, image in enumerate(boxes)],
        categories=[dict(id=1, name='thing')],
    )
    path = tmp_path / 'instances_train2017.json'
    path.write_text(json.dumps(content))
    return path


def test_shares_are_exact_disjoint_and_complete(annotations, tmp_path):
    written = split_coco(annotations, tmp_path / 'out', [0.5, 10], folds=2)
    assert set(written) == {
        f'instances_train2017.{fold}@{percent}{rest}.json'
        for fold in (1, 2)
        for percent in ('0.5', '10')
        for rest in ('', '-unlabeled')
    }
    source = json.loads(annotations.read_text())
    for fold in (1, 2):
        part, rest = (
            json.loads((tmp_path / f'out/instances_train2017.{fold}@10{end}.json').read_text())
            for end in ('', '-unlabeled')
        )
        labelled = [image['id'] for image in part['images']]
        unlabelled = [image['id'] for image in rest['images']]
        assert len(labelled) == len(set(labelled)) == 20 and len(unlabelled) == 180
        assert {*labelled, *unlabelled} == {image['id'] for image in source['images']}
        assert part['annotations'] == [
            item for item in source['annotations'] if item['image_id'] in labelled
        ]
        assert rest['annotations'] == [] and rest['categories'] == source['categories']
        assert part['info'] == source['info']


def test_draws_are_deterministic_nested_and_differ_between_folds(annotations, tmp_path):
    ten = draw_labelled(200, 10, 1)
    assert ten == draw_labelled(200, 10, 1)
    assert set(draw_labelled(200, 5, 1)) < set(ten)
    assert ten != draw_labelled(200, 10, 2) and ten != draw_labelled(200, 10, 1, seed=1)
    assert len(draw_labelled(7, 0.1, 1)) == 1 and draw_labelled(7, 100, 1) == list(range(7))
    split_coco(annotations, tmp_path / 'a', [10], folds=1)
    content = json.loads(annotations.read_text())
    content['images'].reverse()
    annotations.write_text(json.dumps(content))
    split_coco(annotations, tmp_path / 'b', [10], folds=1)
    name = 'instances_train2017.1@10.json'
    assert (tmp_path / 'a' / name).read_text() == (tmp_path / 'b' / name).read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(percent=[0]), 'percent=0'),
        (dict(percent=[101]), 'percent=101'),
        (dict(folds=0), 'folds=0'),
        (dict(seed=-1), 'seed=-1'),
    ],
)
def test_bad_numbers_are_named(annotations, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        split_coco(annotations, tmp_path / 'out', **arguments)
    assert not (tmp_path / 'out').exists()


def test_a_file_that_is_no_coco_file_is_named(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match="x.json is no COCO.*'annotations', 'categories'"):
        split_coco(path, tmp_path / 'out')
