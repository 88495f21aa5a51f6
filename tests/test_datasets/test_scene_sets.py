"""Scenes of MNIST and Fashion-MNIST: sources by split, textures, stratified shares, errors."""

import hashlib
import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_sets import garments, write_idx, write_sets

from mmext.datasets import backgrounds, catalog, idx, rendering
from mmext.datasets import scenes as generator
from mmext.datasets.scene_objects import OBJECTS, load_objects
from mmext.datasets.scene_settings import DATA_SETS, SceneSettings, labelled_ids
from mmext.datasets.scenes import generate, render_scene

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'make_scenes.py'
LUMINANCE = np.array([0.114, 0.587, 0.299])
OF_SPLIT = {'train': {0, 1, 2, 3}, 'val': {4, 5, 6}, 'test': {7, 8, 9}}
LARGE = {'mnist': DATA_SETS['mnist_scenes'], 'fashion-mnist': DATA_SETS['fashion_scenes']}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_sets(folder)
    return folder


# sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize('objects', ['mnist', 'fashion-mnist'])
@pytest.mark.parametrize('split', rendering.SPLITS)
def test_a_scene_has_objects_and_photos_of_its_split_only(root, objects, split):
    settings = replace(LARGE[objects], size=112)
    seen = set()
    for index in range(12):
        scene, labels = render_scene(split, settings, index, root)
        seen |= set(labels.tolist())
        # The photos of a split have one colour; objects and strokes have all three.
        inside = scene.masks.max(0) > 0
        strongest = scene.image[~inside].astype(float).mean(0).argmax()
        assert strongest == rendering.SPLITS.index(split)
    assert seen == OF_SPLIT[split]


def test_the_splits_of_the_training_file_are_its_two_parts(root):
    images, labels = idx.read_pair('mnist', 'train', root)
    parts = [idx.read_split('mnist', split, root) for split in ('train', 'val')]
    assert [len(part[1]) for part in parts] == [44, 4]
    assert np.array_equal(np.concatenate([part[0] for part in parts]), images)
    assert np.array_equal(np.concatenate([part[1] for part in parts]), labels)
    assert 60000 - 60000 // idx.VAL_SHARE == 55000


@pytest.mark.parametrize('photos', backgrounds.PHOTO_SETS)
def test_splits_share_no_photo(root, photos):
    sums = [
        hashlib.sha256(path.read_bytes() + split.encode() * (photos == 'bsds500')).hexdigest()
        for split in rendering.SPLITS
        for path in dict.fromkeys(backgrounds.photo_paths(photos, split, root))
    ]
    # Both tiny photos of a split of BSDS500 are equal by intent.
    assert len(set(sums)) == {'skimage': 14, 'packages': 18, 'bsds500': 3}[photos]
    assert len(sums) == {'skimage': 14, 'packages': 18, 'bsds500': 6}[photos]


def test_packages_add_photos_that_are_large_enough():
    for split in rendering.SPLITS:
        photos = backgrounds.load_photos('packages', split)
        assert len(photos) > len(backgrounds.load_photos('skimage', split))
        assert min(min(photo.shape[:2]) for photo in photos) >= 300


# pixels and boxes ---------------------------------------------------------------------------


def _on_flat(grey, objects, level=40, size=176, sides=(36, 92)):
    flat = [np.full((200, 200, 3), level, np.uint8)]
    glyph = OBJECTS[objects].to_glyph(grey)
    rng = np.random.default_rng(3)
    return rendering.compose_scene(rng, flat, [glyph], size, sides, 0, 0.0)


@pytest.mark.parametrize('objects', ['mnist', 'fashion-mnist'])
def test_boxes_are_tight_around_the_painted_pixels(objects):
    block = np.zeros((28, 28), np.uint8)
    block[3:25, 9:17] = 200
    scene = _on_flat(block, objects, level=0)
    luminance = scene.image @ LUMINANCE
    y, x = np.nonzero(luminance >= rendering.INK * np.median(luminance[luminance > 5]))
    left, top, width, height = scene.boxes[0]
    found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    # The rim of a garment is darker than its cloth.
    assert np.abs(found - [left, top, left + width, top + height]).max() <= 2
    assert 36 <= max(width, height) <= 92


@pytest.mark.parametrize('objects', ['mnist', 'fashion-mnist'])
def test_objects_have_their_size_keep_apart_and_lie_inside(root, objects):
    sides, pairs = [], 0
    for index in range(60):
        scene, labels = render_scene('train', LARGE[objects], index, root)
        boxes = scene.boxes.astype(float)
        assert 1 <= len(boxes) == len(labels) <= 3
        assert boxes[:, :2].min() >= 0
        assert (boxes[:, :2] + boxes[:, 2:]).max() <= 176
        sides.extend(boxes[:, 2:].max(1))
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
                shared = np.clip(high - low, 0, None).prod()
                assert shared <= 0.15 * min(a[2:].prod(), b[2:].prod())
                pairs += 1
    assert 36 <= min(sides) < 44
    assert 84 < max(sides) <= 92
    assert pairs > 20


def test_a_garment_keeps_its_texture_and_a_digit_has_one_colour():
    halves = np.zeros((28, 28), np.uint8)
    halves[4:24, 8:14], halves[4:24, 14:20] = 80, 240
    for objects, expected in (('fashion-mnist', 3.0), ('mnist', 1.0)):
        # Digits are strokes: 80 of 255 is too faint for ink.
        image = halves if objects == 'fashion-mnist' else np.where(halves, 240, 0)
        scene = _on_flat(image, objects)
        left, top, width, height = scene.boxes[0]
        patch = scene.image[top : top + height, left : left + width] @ LUMINANCE
        middle = patch[height // 3 : -height // 3]
        quarter = width // 4
        dark, light = middle[:, quarter - 2 : quarter + 2], middle[:, -quarter - 2 : -quarter + 2]
        assert light.mean() / dark.mean() == pytest.approx(expected, rel=0.1)


def test_a_garment_is_brighter_than_a_flat_ground_by_the_contrast():
    contrasts = []
    for seed in range(30):
        level = 30 + 3 * seed
        glyph = rendering.garment_from_grey(garments(1, seed)[0])
        flat = [np.full((200, 200, 3), level, np.uint8)]
        rng = np.random.default_rng(seed)
        scene = rendering.compose_scene(rng, flat, [glyph], 176, (36, 92), 0, 0.0)
        luminance = scene.image @ LUMINANCE
        ground = luminance[scene.masks[0] == 0].mean()
        contrasts.append(np.average(luminance, weights=scene.masks[0]) - ground)
    low, high = rendering.CONTRAST
    # Bright spots of the texture are cut at 255.
    assert low - 8 < min(contrasts) < 45
    assert 80 < max(contrasts) < high + 3


def test_dark_cloth_is_opaque_and_gaps_are_not():
    bag = np.zeros((28, 28), np.uint8)
    bag[4:24, 4:24] = 220
    bag[6:12, 8:20] = 0
    bag[15:20, 8:20] = 25
    glyph = rendering.garment_from_grey(bag)
    # Four times as large, with the margins of one and two pixels.
    rows = glyph.alpha[:, 4 * 15 + 2]
    assert rows[4 * (9 + 1) + 2] == 0
    assert rows[4 * (17 + 1) + 2] > 0.9


def test_defaults_draw_what_they_always_drew():
    """Boxes, labels and mean brightness of the digit scenes at their default settings."""
    summed = hashlib.sha256()
    means = []
    for split in rendering.SPLITS:
        for index in range(20):
            scene, labels = render_scene(split, SceneSettings(), index)
            summed.update(scene.boxes.astype('<i8').tobytes() + labels.astype('<i8').tobytes())
            means.append(scene.image.mean())
    known = 'cda4cfa53905de89490b1c20dd0c673ce5ffe8ce362fff809638e3ea579a8edd'
    assert summed.hexdigest() == known
    assert np.mean(means) == pytest.approx(69.662, abs=0.05)


# labelled shares ----------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(4))
def test_a_stratified_share_has_every_class_often_enough(seed):
    rng = np.random.default_rng(seed)
    # The last class is in every fortieth image only.
    weights = np.r_[np.ones(9), 0.12]
    labels = [
        rng.choice(10, size=rng.integers(1, 4), p=weights / weights.sum()).tolist()
        for _ in range(600)
    ]
    settings = SceneSettings(train=600, stratified=True, seed=seed)
    available = [sum(label in present for present in labels) for label in range(10)]
    before: set[int] = set()
    for images in (1, 10, 25, 40, 100, 300, 600):
        ids = labelled_ids(settings, 1, 100 * images / 600, labels)
        assert len(ids) == len(set(ids)) == images
        assert before <= set(ids)
        before = set(ids)
        for label in range(10):
            count = sum(label in labels[i - 1] for i in ids)
            assert count >= min(images // 10, available[label])
    assert before == set(range(1, 601))


def test_stratified_folds_differ_and_plain_ones_ignore_the_labels():
    labels = [[i % 10] for i in range(200)]
    settings = SceneSettings(train=200, stratified=True)
    first, second = (set(labelled_ids(settings, fold, 10, labels)) for fold in (1, 2))
    assert len(first & second) < 10
    plain = replace(settings, stratified=False)
    assert labelled_ids(plain, 1, 10, labels) == labelled_ids(plain, 1, 10)
    assert set(labelled_ids(plain, 1, 10)) != first


def test_images_without_objects_come_last_in_a_stratified_share():
    labels = [[] if i % 2 else [i % 4] for i in range(40)]
    settings = SceneSettings(train=40, stratified=True)
    assert all(labels[i - 1] for i in labelled_ids(settings, 1, 50, labels))
    assert labelled_ids(settings, 1, 100, labels) == list(range(1, 41))


@pytest.mark.parametrize('labels', [None, [[1]]])
def test_a_stratified_share_needs_the_labels_of_all_images(labels):
    with pytest.raises(ValueError, match='labels must name the classes of all 40 images'):
        labelled_ids(SceneSettings(train=40, stratified=True), 1, 10, labels)


# files --------------------------------------------------------------------------------------


@pytest.fixture
def small_sets(monkeypatch):
    few = {'train': 40, 'val': 3, 'test': 3, 'percent': (10, 25), 'folds': 2}
    for name in ('mnist_scenes', 'fashion_scenes'):
        monkeypatch.setitem(DATA_SETS, name, replace(DATA_SETS[name], **few))
    monkeypatch.setattr(generator, 'print_log', lambda *args, **kwargs: None)


@pytest.mark.parametrize('name', ['mnist_scenes', 'fashion_scenes'])
def test_a_named_set_is_made_of_the_others_and_known_to_the_catalogue(root, name, small_sets):
    out = root / 'made' / name
    generator.make(root, out)
    settings = DATA_SETS[name]
    manifest = catalog.manifest(out)
    assert manifest['name'] == name
    assert manifest['settings']['objects'] == settings.objects
    assert manifest['settings']['photos'] == 'bsds500'
    assert manifest['settings']['sides'] == [36, 92]
    assert manifest['backgrounds']['val'] == ['val0.jpg', 'val1.jpg']
    full = json.loads((out / 'annotations/instances_train.json').read_text())
    assert [c['name'] for c in full['categories']] == list(idx.CLASSES[settings.objects])
    labelled = json.loads((out / 'annotations/semi/instances_train.2@25.json').read_text())
    assert len(labelled['images']) == 10
    # Four classes are in the tiny training split.
    for category in (1, 2, 3, 4):
        images = {a['image_id'] for a in labelled['annotations'] if a['category_id'] == category}
        assert len(images) >= 10 // 4
    assert generate(out, settings, data_root=root) == (manifest, False)
    with pytest.raises(FileExistsError, match='other settings'):
        generate(out, replace(settings, stratified=False), data_root=root)


def test_every_set_is_in_the_catalogue():
    for name, settings in DATA_SETS.items():
        entry = catalog.named(name)
        assert entry.make == 'mmext.datasets.scenes:make'
        needs = {settings.objects, settings.photos} & set(catalog.SETS)
        assert set(entry.needs) == needs


def test_a_folder_of_before_counts_as_one_with_default_settings(tmp_path, small_sets):
    settings = SceneSettings(train=4, val=1, test=1, percent=(25,), folds=1)
    out = tmp_path / 'digit_scenes'
    generate(out, settings)
    path = out / 'manifest.json'
    old = json.loads(path.read_text())
    for name in ('sides', 'objects', 'photos', 'stratified'):
        del old['settings'][name]
    for name in ('name', 'title', 'source', 'files', 'bytes', 'sha256'):
        del old[name]
    path.write_text(json.dumps(old | {'generator': 'digit_scenes'}))
    manifest, written = generate(out, settings)
    assert not written
    assert catalog.manifest(out)['sha256'] == manifest['sha256']
    with pytest.raises(FileExistsError, match='other settings'):
        generate(out, replace(settings, sides=(18, 40)))


# errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (LARGE['fashion-mnist'], r'fashion-mnist is missing: mmext data fashion-mnist'),
        (LARGE['mnist'], r'mnist is missing: mmext data mnist'),
        (SceneSettings(photos='bsds500'), r"bsds500 .*photos='packages'"),
    ],
)
def test_a_missing_set_is_named_with_its_command(tmp_path, settings, message):
    with pytest.raises(FileNotFoundError, match=message):
        render_scene('train', settings, 0, tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        generate(tmp_path / 'out', settings, data_root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_named(tmp_path):
    write_sets(tmp_path)
    path = tmp_path / 'mnist' / 'train-images-idx3-ubyte'
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], 'not what its head says'),
        (whole[:6], 'not what its head says'),
        (b'\x1f\x8b\x08\x00', 'not an IDX file'),
        (b'', 'not an IDX file'),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            idx.read_idx(path)
    write_idx(path, garments(5, 0))
    with pytest.raises(ValueError, match=r'images \(5, 28, 28\) and labels \(48,\)'):
        load_objects('mnist', 'train', tmp_path)
    with pytest.raises(ValueError, match='name must be one of'):
        idx.read_pair('letters', 'train', tmp_path)
    photo = tmp_path / 'bsds500/images/val/val1.jpg'
    photo.write_bytes(b'no image')
    with pytest.raises(FileNotFoundError, match='val1.jpg is missing or unreadable'):
        backgrounds.load_photos('bsds500', 'val', tmp_path)
    with pytest.raises(ValueError, match='photos must be one of'):
        backgrounds.photo_paths('mine', 'val')


def test_command_line_starts_from_a_named_set(root, tmp_path, small_sets):
    main = runpy.run_path(str(TOOL))['main']
    out = tmp_path / 'cli'
    main(
        ['--like', 'fashion_scenes', '--out', str(out), '--data-root', str(root), '--train', '20',
         '--sides', '30', '60', '--photos', 'packages', '--percent', '50', '--no-stratified']
    )  # fmt: skip
    settings = json.loads((out / 'manifest.json').read_text())['settings']
    wanted = replace(
        DATA_SETS['fashion_scenes'],
        train=20, sides=(30, 60), photos='packages', percent=(50,), stratified=False,
    )  # fmt: skip
    assert settings == generator._as_json(wanted)
    with pytest.raises(SystemExit, match=r'error: .*mmext data mnist'):
        main(['--like', 'mnist_scenes', '--out', str(out / 'no'), '--data-root', str(tmp_path)])
