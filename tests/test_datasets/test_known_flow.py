"""Known-flow clips and photos: flow, visibility and splits are what they say."""

import cv2
import numpy as np
import pytest

from mmext.datasets.known_flow import KnownFlowClip
from mmext.datasets.photos import PHOTOS, PhotoCrops, photo


def sampled(image, flow):
    """Bilinear samples in float64, written apart from OpenCV."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width]
    u = np.clip(x + flow[..., 0], 0, width - 1).astype(np.float64)
    v = np.clip(y + flow[..., 1], 0, height - 1).astype(np.float64)
    left, top = np.minimum(u.astype(int), width - 2), np.minimum(v.astype(int), height - 2)
    a, b = (u - left)[..., None], (v - top)[..., None]
    image = image.astype(np.float64)
    upper = (1 - a) * image[top, left] + a * image[top, left + 1]
    lower = (1 - a) * image[top + 1, left] + a * image[top + 1, left + 1]
    return (1 - b) * upper + b * lower


def test_whole_pans_are_exact_shifts():
    clip = KnownFlowClip(photo('china'), (60, 80), 5, pan=(4, 3))
    assert np.array_equal(clip.flow(1, 4), np.broadcast_to([-12, -9], (60, 80, 2)))
    seen = clip.visible(1, 4)
    assert seen.sum() == (60 - 9) * (80 - 12)
    assert np.array_equal(sampled(clip.frames[4], clip.flow(1, 4))[seen], clip.frames[1][seen])


def test_flow_of_a_turning_zooming_camera_with_a_sprite_brings_frames_together():
    smooth = cv2.GaussianBlur(photo('china'), (0, 0), 3)
    clip = KnownFlowClip(
        smooth, (97, 131), 8, pan=(2.5, 1.25), zoom=1.02, turn=1.5, start=(60, 60),
        sprite=photo('coffee')[:30, :40], sprite_start=(10, 20), sprite_pan=(9, 2),
    )  # fmt: skip
    for a, b in ((0, 7), (7, 2)):
        seen = clip.visible(a, b)
        error = np.abs(sampled(clip.frames[b], clip.flow(a, b)) - clip.frames[a]).max(2)
        assert np.percentile(error[seen], 99) < 4
        y, x = np.mgrid[:97, :131]
        places = np.rint(np.stack([y, x], 2) + clip.flow(a, b)[..., ::-1]).astype(int)
        inside = ((places >= 0) & (places < [97, 131])).all(2) & ~clip.covered(a)
        behind = inside & clip.covered(b)[tuple(np.clip(places, 0, [96, 130]).transpose(2, 0, 1))]
        assert behind.sum() > 300 and not seen[behind].any()
        assert np.median(error[behind]) > 10
        assert seen[inside & ~behind].mean() > 0.9


def test_a_camera_that_leaves_the_photo_is_an_error():
    with pytest.raises(ValueError, match='frame 3 would leave the photo'):
        KnownFlowClip(photo('china'), (400, 600), 5, pan=(14, 0))


def test_crops_depend_on_their_number_alone():
    data = PhotoCrops(size=32, num_samples=40)
    again = PhotoCrops(size=32, num_samples=40)
    assert np.array_equal(data[7]['inputs'], again[7]['inputs'])
    assert not np.array_equal(data[7]['inputs'], data[13]['inputs'])
    assert data[0]['inputs'].shape == (3, 32, 32) and len(data) == 40


def test_splits_share_no_photo():
    assert not set(PHOTOS['train']) & set(PHOTOS['test'])
    with pytest.raises(ValueError, match='split'):
        PhotoCrops(split='val')
