import json

import pytest

from mmext.engine.annotations import check_annotations

CLASSES = ('cat', 'dog')


def coco(**changes):
    content = dict(
        images=[dict(id=1, file_name='1.png', width=8, height=8)],
        annotations=[dict(id=1, image_id=1, category_id=7, bbox=[0, 0, 4, 4], area=16)],
        categories=[dict(id=7, name='cat'), dict(id=9, name='dog')],
    )
    content.update(changes)
    return content


@pytest.fixture
def config(tmp_path):
    def make(content=None, wrap=False, **changes):
        path = tmp_path / 'train.json'
        if content is not None:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        dataset = dict(
            type='mmdet.CocoDataset',
            data_root=str(tmp_path),
            ann_file='train.json',
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=True),
        )
        dataset.update(changes)
        if wrap:
            dataset = dict(
                type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=dataset)]
            )
        return dict(train_dataloader=dict(dataset=dataset))

    return make


def test_a_sound_file_passes_also_with_fewer_boxes_than_classes(config):
    check_annotations(config(coco()))
    check_annotations({})


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize(
    'content, error, message',
    [
        (None, FileNotFoundError, 'does not exist'),
        ('{"images": [', ValueError, 'no COCO annotation file'),
        ('[1, 2]', ValueError, 'no COCO annotation file'),
        (dict(images=[]), ValueError, 'no COCO annotation file'),
        (coco(images=[], annotations=[]), ValueError, 'lists no image'),
        (coco(annotations=[]), ValueError, 'zero labelled images'),
        (coco(categories=[dict(id=9, name='dog')]), ValueError, 'do not define'),
        (
            coco(categories=[dict(id=7, name='cat')]),
            ValueError,
            "does not know the classes \\['dog'\\]",
        ),
        (
            coco(
                categories=[dict(id=7, name='cow'), dict(id=1, name='cat'), dict(id=9, name='dog')]
            ),
            ValueError,
            "boxes labelled \\['cow'\\]",
        ),
        (
            coco(annotations=[dict(id=1, image_id=5, category_id=7, bbox=[0, 0, 4, 4])]),
            ValueError,
            'images that it does not list',
        ),
    ],
)
def test_mistakes_name_the_file_and_the_loader(config, content, error, message, wrap):
    with pytest.raises(error, match=f'train_dataloader: ann_file .*train.json.*{message}'):
        check_annotations(config(content, wrap=wrap))


def test_an_unlabelled_set_needs_no_boxes(config):
    check_annotations(config(coco(annotations=[]), filter_cfg=dict(filter_empty_gt=False)))
    check_annotations(config(coco(annotations=[]), test_mode=True))


def test_other_datasets_are_left_alone(config):
    check_annotations(config(type='VOCDataset'))
