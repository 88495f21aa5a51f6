"""Crops and flips of whole batches, against every outcome that they can have."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope

from mmext.models.crop_flip_preprocessor import crop_and_flip


def build(**settings):
    init_default_scope('mmpretrain')
    return MODELS.build(dict(type='mmext.CropFlipPreprocessor', **settings))


def outcomes(image, padding):
    """Every crop and its mirror image, (place, place, 2, C, H, W), cut by NumPy."""
    height, width = image.shape[1:]
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    places = range(2 * padding + 1)
    crops = np.stack(
        [np.stack([padded[:, y : y + height, x : x + width] for x in places]) for y in places]
    )
    return np.stack([crops, crops[..., ::-1]], 2)


def places_of(augmented, image, padding):
    """Place and side of each augmented image among the outcomes."""
    table = outcomes(image, padding)
    found = []
    for one in augmented.numpy():
        (match,) = np.argwhere((table == one).all((3, 4, 5)))
        found.append(tuple(match.tolist()))
    return found


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_every_outcome_is_a_crop_and_all_are_equally_likely(dtype):
    image = torch.randint(1, 256, (3, 6, 8)).to(dtype)
    torch.manual_seed(0)
    count = 3600
    augmented = crop_and_flip(image.expand(count, -1, -1, -1), padding=1, flip_prob=0.5)
    assert augmented.dtype == dtype and augmented.shape == (count, 3, 6, 8)
    found = places_of(augmented, image, 1)
    assert len(set(found)) == 18
    # Chi-square with 17 degrees of freedom: beyond 40.8 once in a thousand seeds.
    counts = np.unique(found, axis=0, return_counts=True)[1]
    assert ((counts - count / 18) ** 2 / (count / 18)).sum() < 40.8


def test_the_outcomes_are_those_of_the_host():
    init_default_scope('mmpretrain')
    image = torch.randint(1, 256, (3, 6, 6), dtype=torch.uint8)
    crop = TRANSFORMS.build(dict(type='RandomCrop', crop_size=6, padding=1))
    flip = TRANSFORMS.build(dict(type='RandomFlip', prob=0.5, direction='horizontal'))
    np.random.seed(0)
    hosts = torch.stack(
        [
            torch.from_numpy(flip(crop(dict(img=image.permute(1, 2, 0).numpy())))['img'].copy())
            for _ in range(400)
        ]
    ).permute(0, 3, 1, 2)
    ours = crop_and_flip(image.expand(400, -1, -1, -1), 1, 0.5)
    assert set(places_of(hosts, image, 1)) == set(places_of(ours, image, 1))


def test_only_training_batches_are_augmented():
    inputs = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    settings = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)
    ours = build(padding=2, flip_prob=1.0, **settings)
    host = MODELS.build(dict(type='ClsDataPreprocessor', **settings))
    kept = inputs.clone()
    assert torch.equal(ours({'inputs': inputs})['inputs'], host({'inputs': inputs})['inputs'])
    torch.manual_seed(5)
    found = ours({'inputs': inputs}, training=True)['inputs']
    torch.manual_seed(5)
    augmented = crop_and_flip(inputs, 2, 1.0)
    assert not torch.equal(augmented, inputs) and torch.equal(inputs, kept)
    # Black borders are black pixels, not pixels of the mean colour.
    assert torch.equal(found, host({'inputs': augmented}, training=True)['inputs'])


def test_off_by_default_and_repeatable():
    inputs = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(build()({'inputs': inputs}, training=True)['inputs'], inputs.float())
    assert torch.equal(crop_and_flip(inputs, 0, 1.0), inputs.flip(-1))
    torch.manual_seed(1)
    first = crop_and_flip(inputs, 2, 0.5)
    torch.manual_seed(1)
    assert torch.equal(crop_and_flip(inputs, 2, 0.5), first)
    assert not torch.equal(crop_and_flip(inputs, 2, 0.5), first)


def test_mistakes_are_named():
    for settings in (dict(padding=-1), dict(flip_prob=1.5), dict(flip_prob=-0.1)):
        with pytest.raises(ValueError, match='padding=.*flip_prob='):
            build(**settings)
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)]
    with pytest.raises(ValueError, match='needs one tensor.*default_collate'):
        build(padding=1)({'inputs': images}, training=True)
