import json
import logging

import pytest
from mmengine.config import Config

from mmext import launch
from mmext.commands.options import user_errors
from mmext.datasets.known_sets import SETS
from mmext.launch import annotations
from mmext.launch.annotations import check_annotations

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
    def make(content=None, wrap=False, field='train_dataloader', **changes):
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
        return {field: dict(dataset=dataset)}

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
            "zero labelled images with a box of metainfo.classes \\['cat', 'dog'\\]",
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


def test_boxes_of_other_classes_are_counted_in_one_warning(config, monkeypatch):
    said = []
    monkeypatch.setattr(
        annotations, 'print_log', lambda text, logger, level: said.append((text, level))
    )
    names = ['cat', 'dog', 'cow', 'ant', 'bee', 'elk', 'fox', 'owl']
    content = coco(
        categories=[dict(id=key, name=name) for key, name in enumerate(names)],
        # The more boxes, the later the name: one cat, one dog, two cows ... seven owls.
        annotations=[
            dict(id=number, image_id=1, category_id=key, bbox=[0, 0, 4, 4], area=16)
            for number, key in enumerate(key for key in range(8) for _ in range(max(key, 1)))
        ],
    )
    cfg = config(content)
    cfg['val_dataloader'] = config(content, metainfo=dict(classes=names[1:]))['train_dataloader']
    check_annotations(cfg)
    ((text, level),) = said
    assert level == logging.WARNING
    train, val = text.split('; ')
    assert train.startswith('Boxes outside metainfo.classes are left out: train_dataloader')
    assert train.endswith(
        'train.json: 27 of 29 (7 owl, 6 fox, 5 elk, 4 bee, 3 ant and those of 1 more categories)'
    )
    assert val.startswith('val_dataloader') and val.endswith('train.json: 1 of 29 (1 cat)')
    # The usual cases say nothing.
    check_annotations(config(coco()))
    check_annotations(config(content, metainfo={}))
    assert len(said) == 1


def test_a_run_checks_only_the_files_that_it_reads(config, tmp_path):
    sound = config(coco())['train_dataloader']
    lost = config(field='test_dataloader', ann_file='lost.json', test_mode=True)
    rest = dict(model={}, train_cfg={}, test_cfg={}, train_dataloader=sound, work_dir=str(tmp_path))
    launch.prepare(Config({**rest, **lost}))
    (tmp_path / 'c.pth').touch()
    with pytest.raises(FileNotFoundError, match='test_dataloader: ann_file .*lost.json'):
        launch.prepare_test(Config({**rest, **lost}), str(tmp_path / 'c.pth'))
    swapped = {**rest, 'train_dataloader': lost['test_dataloader'], 'test_dataloader': sound}
    launch.prepare_test(Config(swapped), str(tmp_path / 'c.pth'))
    with pytest.raises(FileNotFoundError, match='train_dataloader: ann_file .*lost.json'):
        launch.prepare(Config(swapped))
    with pytest.raises(FileNotFoundError, match='val_dataloader: ann_file .*lost.json'):
        launch.prepare(Config({**rest, 'val_dataloader': lost['test_dataloader']}))


def test_classes_may_be_a_file_but_not_one_name(config, tmp_path):
    (tmp_path / 'names.txt').write_text('cat\ndog\n')
    check_annotations(config(coco(), metainfo=dict(classes=str(tmp_path / 'names.txt'))))
    (tmp_path / 'names.txt').write_text('cat\ncow\n')
    with pytest.raises(ValueError, match='cow'):
        check_annotations(config(coco(), metainfo=dict(classes=str(tmp_path / 'names.txt'))))
    with pytest.raises(ValueError, match=r"train_dataloader: metainfo.classes='cat'.*\['cat'\]"):
        check_annotations(config(coco(), metainfo=dict(classes=('cat'))))


def test_an_unlabelled_set_needs_no_boxes(config):
    check_annotations(config(coco(annotations=[]), filter_cfg=dict(filter_empty_gt=False)))
    check_annotations(config(coco(annotations=[]), test_mode=True))


def test_other_datasets_are_left_alone(config):
    check_annotations(config(type='VOCDataset'))


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type='MNIST', data_root='data/mnist'),
        # As in MMPretrain's own configs, whose loaders would download.
        dict(type='MNIST', data_prefix='data/mnist'),
        dict(type='mmpretrain.CustomDataset', data_root='data/mnist', data_prefix='train'),
        dict(type='mmext.InMemoryDataset', dataset=dict(type='MNIST', data_root='data/mnist/')),
        dict(type='RepeatDataset', dataset=dict(type='XMLDataset', data_root='data/mnist')),
        dict(type='CocoDataset', data_root='data/mnist', ann_file='annotations/train.json'),
        dict(
            type='mmext.SeededConcatDataset',
            datasets=[
                dict(type='ToyDataset'),
                dict(type='mmext.TwoDomainDataset', target=dict(data_root='data/mnist')),
            ],
        ),
    ],
)
def test_a_missing_known_set_is_named_with_its_command(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = '^data/mnist is missing: mmext data mnist$'
    with pytest.raises(FileNotFoundError, match=message):
        check_annotations(dict(val_dataloader=dict(dataset=dataset)))
    # Another loader's data is not asked for.
    check_annotations(dict(val_dataloader=dict(dataset=dataset)), ['test_dataloader'])
    for name in SETS['mnist'].layout:
        (tmp_path / 'data/mnist').mkdir(parents=True, exist_ok=True)
        (tmp_path / 'data/mnist' / name).touch()
    if dataset['type'] != 'CocoDataset':
        check_annotations(dict(val_dataloader=dict(dataset=dataset)))
    (tmp_path / 'data/mnist/t10k-labels-idx1-ubyte').unlink()
    with pytest.raises(FileNotFoundError, match='^data/mnist/t10k-labels-idx1-ubyte is missing'):
        check_annotations(dict(val_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize(
    'dataset, scope',
    [
        (dict(type='ImageNet', data_root='gone'), 'mmpretrain'),
        (dict(type='mmpretrain.CustomDataset', data_prefix='gone'), None),
        (dict(type='RepeatDataset', dataset=dict(type='VOCDataset', data_root='gone')), 'mmdet'),
        (dict(type='FashionMNIST', data_root='gone', download=False), 'mmpretrain'),
    ],
)
def test_a_folder_that_is_not_there_is_named(dataset, scope, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = dict(default_scope=scope, val_dataloader=dict(dataset=dataset))
    with pytest.raises(FileNotFoundError, match='val_dataloader: gone does not exist: put the'):
        check_annotations(cfg)
    (tmp_path / 'gone').mkdir()
    check_annotations(cfg)


def test_other_places_and_pipelines_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline = [dict(type='Paste', data_root='data/mnist')]
    for dataset in (
        # MMPretrain downloads it there.
        dict(type='mmpretrain.FashionMNIST', data_root='data/mine'),
        dict(type='MNIST', data_root='s3://bucket/mnist'),
        dict(type='ToyDataset', pipeline=pipeline),
    ):
        check_annotations(dict(train_dataloader=dict(dataset=dataset)))


def test_training_without_the_data_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    loader = dict(dataset=dict(type='MNIST', data_root='data/mnist'))
    cfg = Config(dict(model={}, train_cfg={}, train_dataloader=loader))
    with pytest.raises(SystemExit), user_errors('mmext train'):
        launch.prepare(cfg)
    wanted = 'mmext train: error: data/mnist is missing: mmext data mnist\n'
    assert capsys.readouterr().err == wanted
