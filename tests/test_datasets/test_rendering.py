"""Geometry and colours of rendered scenes against independent measurements."""

import numpy as np
import pytest

from mmext.datasets import rendering
from mmext.datasets.digits import handwritten_digits
from mmext.datasets.scenes import SceneSettings, render_scene

LUMINANCE = np.array([0.114, 0.587, 0.299])


def test_boxes_are_tight_around_the_masks():
    for index in range(40):
        scene, labels = render_scene('train', SceneSettings(), index)
        assert len(labels) == len(scene.boxes) == len(scene.masks) >= 1
        for (x, y, w, h), mask in zip(scene.boxes, scene.masks, strict=True):
            points = np.argwhere(mask >= rendering.INK)
            assert points.min(0).tolist() == [y, x]
            assert points.max(0).tolist() == [y + h - 1, x + w - 1]


def test_boxes_are_tight_around_the_painted_pixels():
    black = [np.zeros((100, 100, 3), np.uint8)]
    images, _ = handwritten_digits('train')
    for index in range(20):
        rng = np.random.default_rng(index)
        glyph = rendering.glyph_from_digit(images[index])
        scene = rendering.compose_scene(rng, black, [glyph], 80, (18, 42), 0, 0.0)
        luminance = scene.image @ LUMINANCE
        y, x = np.nonzero(luminance >= rendering.INK * luminance.max())
        found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        left, top, width, height = scene.boxes[0]
        # Grey levels are whole numbers, so a border pixel may fall on the other side.
        expected = np.array([left, top, left + width, top + height])
        assert np.abs(found - expected).max() <= 1


def test_boxes_have_the_promised_size_place_and_overlap():
    sides = []
    for index in range(150):
        boxes = render_scene('val', SceneSettings(), index)[0].boxes.astype(float)
        assert 1 <= len(boxes) <= 3
        assert boxes[:, :2].min() >= 0
        assert (boxes[:, :2] + boxes[:, 2:]).max() <= 80
        sides.extend(boxes[:, 2:].max(1))
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
                height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
                shared = max(width, 0) * max(height, 0)
                assert shared / (a[2] * a[3] + b[2] * b[3] - shared) < 0.2
    assert min(sides) >= 18
    assert max(sides) <= 42
    assert min(sides) < 22
    assert max(sides) > 38


def test_ink_is_brighter_than_a_flat_background_by_a_varying_contrast():
    images, _ = handwritten_digits('train')
    glyph = rendering.glyph_from_digit(images[0])
    contrasts = []
    for index in range(60):
        flat = [np.full((90, 90, 3), 40 + 3 * index, np.uint8)]
        rng = np.random.default_rng(index)
        scene = rendering.compose_scene(rng, flat, [glyph], 60, (18, 42), 0, 0.0)
        luminance = scene.image @ LUMINANCE
        ink = luminance[scene.masks[0] > 0.999]
        contrasts.append(ink.mean() - luminance[scene.masks[0] == 0].mean())
    low, high = rendering.CONTRAST
    assert low - 1 < min(contrasts) < 45
    assert 95 < max(contrasts) < high + 1


@pytest.mark.parametrize('angle', [-12.0, -5.0, 0.0, 7.0, 12.0])
def test_warp_rotates_by_the_angle_and_meets_the_side(angle):
    bar = np.ones((60, 8), np.float32)
    patch, box = rendering.warp_glyph(rendering.make_glyph(bar), 36.0, angle)
    y, x = np.nonzero(patch >= 0.5)
    cov = np.cov(np.stack([x, -y]).astype(float))
    axis = np.linalg.eigh(cov)[1][:, -1]
    axis *= np.sign(axis[1])
    assert np.degrees(np.arctan2(-axis[0], axis[1])) == pytest.approx(angle, abs=1.0)
    assert abs(max(box[2:]) - 36) <= 1


@pytest.mark.parametrize('luminance', [10.0, 90.0, 200.0, 250.0])
def test_colours_have_exactly_the_luminance_asked_for(luminance):
    for seed in range(30):
        colour = rendering.sample_colour(np.random.default_rng(seed), luminance)
        assert colour @ LUMINANCE == pytest.approx(luminance, abs=1e-2)
        assert colour.min() >= 0
        assert colour.max() <= 255


def test_a_glyph_without_ink_is_refused():
    with pytest.raises(ValueError, match='nothing to draw'):
        rendering.make_glyph(np.zeros((8, 8)))
