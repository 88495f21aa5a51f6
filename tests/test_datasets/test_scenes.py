"""Scenes: disjoint splits, exact fractions, files other tools load, safe writing."""

import hashlib
import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmext.datasets import backgrounds, rendering, scene_objects
from mmext.datasets import scenes as generator
from mmext.datasets.scenes import (
    SceneSettings,
    generate,
    image_name,
    labelled_ids,
    render_scene,
)

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'make_scenes.py'
TINY = SceneSettings(size=48, train=20, val=4, test=3, percent=(5, 25), folds=2)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'scenes'
    generate(out, TINY)
    return out


@pytest.fixture
def messages(monkeypatch):
    said = []
    monkeypatch.setattr(generator, 'print_log', lambda text, **_: said.append(text))
    return said


def _read(path):
    return json.loads(path.read_text())


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


# splits -------------------------------------------------------------------------------------


def test_backgrounds_of_splits_are_disjoint_files():
    folder = rendering.package_dir('skimage') / 'data'
    hashes = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for names in backgrounds.SKIMAGE.values()
        for name in names
    ]
    assert len(hashes) == len(set(hashes)) == 14


@pytest.mark.parametrize('split', rendering.SPLITS)
def test_scenes_use_digits_and_backgrounds_of_their_split_only(monkeypatch, split):
    asked = []
    load, digits = backgrounds.load_photos, scene_objects.handwritten_digits
    monkeypatch.setattr(
        backgrounds,
        'load_photos',
        lambda photos, name, root: asked.append(name) or load(photos, name, root),
    )
    monkeypatch.setattr(
        scene_objects, 'handwritten_digits', lambda name: asked.append(name) or digits(name)
    )
    scene, _ = render_scene(split, TINY, 0)
    assert asked == [split, split]
    again, _ = render_scene(split, TINY, 0)
    assert np.array_equal(scene.image, again.image)


# fractions and folds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('train', 'percent', 'count'),
    [(2000, 2, 40), (2000, 10, 200), (1999, 1, 20), (30, 5, 2), (10, 1, 1), (7, 100, 7)],
)
def test_labelled_counts_are_exact_and_without_replacement(train, percent, count):
    ids = labelled_ids(SceneSettings(train=train), 1, percent)
    assert len(ids) == len(set(ids)) == count
    assert set(ids) <= set(range(1, train + 1))


def test_folds_differ_and_shares_nest():
    settings = SceneSettings()
    small = [set(labelled_ids(settings, fold, 2)) for fold in (1, 2, 3)]
    large = [set(labelled_ids(settings, fold, 10)) for fold in (1, 2, 3)]
    for i in range(3):
        assert small[i] < large[i]
        for j in range(i):
            # Independent draws of 40 of 2,000 share 0.8 images on average.
            assert len(small[i] & small[j]) < 10
    assert set(labelled_ids(SceneSettings(seed=1), 1, 2)) != small[0]


def test_fold_files_partition_the_training_set(scenes):
    full = _read(scenes / 'annotations' / 'instances_train.json')
    names = sorted(path.name for path in (scenes / 'annotations' / 'semi').iterdir())
    assert names == sorted(
        f'instances_train.{fold}@{percent}{suffix}.json'
        for fold in (1, 2)
        for percent in (5, 25)
        for suffix in ('', '-unlabeled')
    )
    for fold in (1, 2):
        for percent, count in ((5, 1), (25, 5)):
            stem = scenes / 'annotations' / 'semi' / f'instances_train.{fold}@{percent}'
            labelled = _read(Path(f'{stem}.json'))
            unlabelled = _read(Path(f'{stem}-unlabeled.json'))
            ids = {image['id'] for image in labelled['images']}
            assert len(ids) == len(labelled['images']) == count
            assert unlabelled['annotations'] == []
            assert unlabelled['categories'] == full['categories']
            assert [i for i in full['images'] if i['id'] not in ids] == unlabelled['images']
            expected = [a for a in full['annotations'] if a['image_id'] in ids]
            assert labelled['annotations'] == expected


# files --------------------------------------------------------------------------------------


def test_files_hold_the_rendered_scenes(scenes):
    for split, count in (('train', 20), ('val', 4), ('test', 3)):
        coco = COCO(str(scenes / 'annotations' / f'instances_{split}.json'))
        assert [c['name'] for c in coco.loadCats(range(1, 11))] == list('0123456789')
        assert sorted(path.name for path in (scenes / split).iterdir()) == [
            image_name(number) for number in range(1, count + 1)
        ]
        for image_id in coco.getImgIds():
            scene, labels = render_scene(split, TINY, image_id - 1)
            info = coco.imgs[image_id]
            image = cv2.imread(str(scenes / split / info['file_name']))
            assert np.array_equal(image, scene.image)
            assert image.shape == (info['height'], info['width'], 3)
            items = coco.loadAnns(coco.getAnnIds(image_id))
            assert [item['bbox'] for item in items] == scene.boxes.tolist()
            assert [item['category_id'] - 1 for item in items] == labels.tolist()
            assert [item['area'] for item in items] == scene.boxes[:, 2:].prod(1).tolist()


def test_manifest_describes_the_files(scenes):
    manifest = _read(scenes / 'manifest.json')
    for name, digest in manifest['annotations_sha256'].items():
        assert hashlib.sha256((scenes / name).read_bytes()).hexdigest() == digest
    assert len(manifest['annotations_sha256']) == 3 + 2 * 2 * 2
    images = b''.join(
        path.read_bytes()
        for split in rendering.SPLITS
        for path in sorted((scenes / split).iterdir())
    )
    assert hashlib.sha256(images).hexdigest() == manifest['images_sha256']
    assert manifest['settings']['percent'] == [5, 25]
    assert manifest['counts']['labelled'] == {'5': 1, '25': 5}
    for split in rendering.SPLITS:
        full = _read(scenes / 'annotations' / f'instances_{split}.json')
        counts = {'images': len(full['images']), 'boxes': len(full['annotations'])}
        assert manifest['counts'][split] == counts


def test_same_seed_same_bytes_other_seed_others(scenes, tmp_path):
    generate(tmp_path / 'same', TINY)
    assert _files(tmp_path / 'same') == _files(scenes)
    manifest, _ = generate(tmp_path / 'other', SceneSettings(**{**vars(TINY), 'seed': 1}))
    assert manifest['images_sha256'] != _read(scenes / 'manifest.json')['images_sha256']


def test_mmdet_loads_labelled_and_unlabelled(scenes):
    pytest.importorskip('mmdet', reason='needs the extra "det"')
    from mmext.compat import mmcv_ops

    mmcv_ops.install()
    from mmdet.datasets import CocoDataset

    def load(name, **kwargs):
        return CocoDataset(
            ann_file=f'annotations/semi/{name}.json',
            data_root=str(scenes),
            data_prefix={'img': 'train/'},
            metainfo={'classes': tuple('0123456789')},
            pipeline=[],
            **kwargs,
        )

    dataset = load('instances_train.1@25')
    assert len(dataset) == 5
    for item in dataset:
        scene, labels = render_scene('train', TINY, item['img_id'] - 1)
        corners = np.concatenate([scene.boxes[:, :2], scene.boxes[:, :2] + scene.boxes[:, 2:]], 1)
        assert Path(item['img_path']).is_file()
        assert [instance['bbox'] for instance in item['instances']] == corners.tolist()
        assert [instance['bbox_label'] for instance in item['instances']] == labels.tolist()
    unlabelled = load('instances_train.1@25-unlabeled', filter_cfg={'filter_empty_gt': False})
    assert len(unlabelled) == 15
    assert not any(item['instances'] for item in unlabelled)


# repeated calls, errors ---------------------------------------------------------------------


def test_second_call_changes_nothing_and_says_so(tmp_path, messages):
    out = tmp_path / 'scenes'
    first, written = generate(out, TINY)
    assert written
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    reordered = SceneSettings(**{**vars(TINY), 'percent': (25, 5)})
    second, written = generate(out, reordered)
    assert not written
    assert second == first
    assert 'nothing to do' in messages[-1]
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == stamps


def test_other_settings_need_force(tmp_path, messages):
    out = tmp_path / 'scenes'
    generate(out, TINY)
    before = _files(out)
    fewer = SceneSettings(**{**vars(TINY), 'train': 6})
    with pytest.raises(FileExistsError, match='--force'):
        generate(out, fewer)
    assert _files(out) == before
    generate(out, fewer, force=True)
    assert len(list((out / 'train').iterdir())) == 6
    assert [path.name for path in tmp_path.iterdir()] == ['scenes']


@pytest.mark.parametrize(
    'damage',
    [
        lambda out: (out / 'val' / '000002.png').unlink(),
        lambda out: (out / 'val' / '000002.png').write_bytes(b'no image'),
        lambda out: (out / 'annotations' / 'instances_val.json').write_text('{}'),
        lambda out: (out / 'annotations' / 'semi' / 'instances_train.1@5.json').unlink(),
    ],
)
def test_damage_is_found_and_force_mends_it(tmp_path, messages, damage):
    out = tmp_path / 'scenes'
    generate(out, TINY)
    before = _files(out)
    damage(out)
    with pytest.raises(FileExistsError, match=r'(missing|changed).*--force'):
        generate(out, TINY)
    generate(out, TINY, force=True)
    assert _files(out) == before


@pytest.mark.parametrize('manifest', [None, '[]', 'broken', '{"generator": "else"}'])
def test_other_folders_are_never_replaced(tmp_path, manifest):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('years of work')
    if manifest is not None:
        (tmp_path / 'mine' / 'manifest.json').write_text(manifest)
    with pytest.raises(FileExistsError, match='holds no scenes'):
        generate(tmp_path / 'mine', TINY, force=True)
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'years of work'


def test_an_empty_folder_is_used(tmp_path, messages):
    (tmp_path / 'scenes').mkdir()
    assert generate(tmp_path / 'scenes', TINY)[1]


def _fail_at_third_call(monkeypatch, name):
    calls = []
    original = getattr(generator, name)

    def wrapped(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError('disk full')
        return original(*args)

    monkeypatch.setattr(generator, name, wrapped)


@pytest.mark.parametrize('name', ['encode_png', '_write_coco'])
def test_a_failure_leaves_nothing(tmp_path, monkeypatch, name):
    _fail_at_third_call(monkeypatch, name)
    with pytest.raises(OSError, match='disk full'):
        generate(tmp_path / 'scenes', TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('at_the_end', [False, True])
def test_a_failure_keeps_the_scenes_before(tmp_path, monkeypatch, messages, at_the_end):
    out = tmp_path / 'scenes'
    generate(out, TINY)
    before = _files(out)
    if at_the_end:
        replace = generator.os.replace

        def refuse_new(source, target):
            if Path(source).name == 'new':
                raise OSError('disk full')
            replace(source, target)

        monkeypatch.setattr(generator.os, 'replace', refuse_new)
    else:
        _fail_at_third_call(monkeypatch, 'encode_png')
    with pytest.raises(OSError, match='disk full'):
        generate(out, SceneSettings(**{**vars(TINY), 'seed': 1}), force=True)
    assert _files(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['scenes']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'size': 47}, 'size'),
        ({'size': 80, 'sides': (18, 75)}, 'size'),
        ({'sides': (7, 42)}, 'sides'),
        ({'sides': (18, 19)}, 'sides'),
        ({'objects': 'letters'}, 'objects'),
        ({'photos': 'mine'}, 'photos'),
        ({'train': 0}, 'train'),
        ({'val': 0}, 'val'),
        ({'test': -1}, 'test'),
        ({'folds': 0}, 'folds'),
        ({'seed': -1}, 'seed'),
        ({'percent': (0,)}, 'percent'),
        ({'percent': (100.5,)}, 'percent'),
        ({'percent': (float('nan'),)}, 'percent'),
        ({'percent': (2, 2.0)}, 'twice'),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        SceneSettings(**arguments)


def test_command_line(tmp_path, capfd):
    main = runpy.run_path(str(TOOL))['main']
    sizes = ['--size', '48', '--train', '20', '--val', '4', '--test', '3', '--folds', '2']
    out = tmp_path / 'cli'
    main(['--out', str(out), *sizes, '--percent', '5', '25'])
    # No progress bar: the standard error is not a terminal here.
    assert not capfd.readouterr().err
    assert _read(out / 'manifest.json')['settings'] == generator._as_json(TINY) | {
        'percent': [5, 25]
    }
    for wrong, message in ((['--percent', '0'], 'percent'), (['--size', '40'], 'size')):
        with pytest.raises(SystemExit, match=f'error: {message}'):
            main(['--out', str(tmp_path / 'none'), *wrong])
    with pytest.raises(SystemExit, match='--force'):
        main(['--out', str(out), *sizes, '--percent', '5'])
    assert not (tmp_path / 'none').exists()
