"""Mathematics against closed forms and literal readings in float64."""

import numpy as np
import pytest
import torch

from mmext.plugins.mvstylizer import functional as mvs
from mmext.plugins.mvstylizer import local_affine


def colors(seed, count=500):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3)) @ rng.normal(size=(3, 3)) + rng.normal(size=3)


def test_mkl_gives_mean_and_covariance_of_the_style():
    content, style = colors(0), colors(1)
    told = mvs.color_statistics(content), mvs.color_statistics(style)
    matrix, offset = mvs.mkl_transform(*told, floor=0)
    mean, covariance = mvs.color_statistics(content @ matrix.T + offset)
    np.testing.assert_allclose(mean, told[1][0], atol=1e-10)
    np.testing.assert_allclose(covariance, told[1][1], atol=1e-10)
    # The optimal map between Gaussians is the gradient of a convex function.
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_mkl_of_independent_channels_scales_each():
    content = np.zeros(3), np.diag([1.0, 4.0, 9.0])
    style = np.ones(3), np.diag([4.0, 4.0, 1.0])
    matrix, offset = mvs.mkl_transform(content, style, floor=0)
    np.testing.assert_allclose(matrix, np.diag([2, 1, 1 / 3]), atol=1e-12)
    np.testing.assert_allclose(offset, 1)


def test_color_statistics_of_pixels_equal_numpys():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    mean, covariance = mvs.color_statistics(image)
    np.testing.assert_allclose(mean, image.reshape(-1, 3).mean(0))
    np.testing.assert_allclose(covariance, np.cov(image.reshape(-1, 3).T, bias=True))


def test_haar_is_the_orthonormal_transform_and_its_inverse():
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    low, high = mvs.haar_split(x)
    assert torch.allclose(mvs.haar_join(low, high), x)
    assert torch.allclose((low**2).sum() + (high**2).sum(), (x**2).sum())
    block = x[1, 2, 4:6, 2:4]
    bands = torch.stack([low[1, 2, 2, 1], *high[1].view(3, 3, 3, 4)[:, 2, 2, 1]])
    signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    assert torch.allclose(bands, signs.double() @ block.reshape(4))


def test_cholesky_map_gives_features_the_statistics_of_the_style():
    torch.manual_seed(0)
    content, style = (
        torch.einsum('cd,ndhw->nchw', torch.randn(5, 5).double(), torch.randn(2, 5, 9, 7).double())
        + i
        for i in (1, -2)
    )
    told = mvs.feature_statistics(content), mvs.feature_statistics(style)
    flat = content[1].flatten(1).numpy()
    np.testing.assert_allclose(told[0][0][1].numpy(), flat.mean(1))
    np.testing.assert_allclose(told[0][1][1].numpy(), np.cov(flat, bias=True))
    moved = mvs.apply_map(content, *mvs.cholesky_map(*told, shrinkage=1e-12))
    for found, wanted in zip(mvs.feature_statistics(moved), told[1], strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_shrinkage_bounds_the_gain_of_dead_features():
    content = torch.randn(1, 4, 8, 8)
    content[:, 2] = 0.5
    told = mvs.feature_statistics(content), mvs.feature_statistics(torch.randn(1, 4, 8, 8))
    matrix, _ = mvs.cholesky_map(*told, shrinkage=1e-2)
    assert matrix.isfinite().all() and matrix.abs().max() < 20


@pytest.mark.parametrize('source, target', [(5, 20), (6, 9), (9, 16), (7, 7), (8, 5), (3, 1)])
def test_phases_are_the_places_of_output_pixels(source, target):
    base, phase, offsets = mvs.phases(source, target)
    wanted = (np.arange(target) + 0.5) * source / target - 0.5
    np.testing.assert_allclose(base.numpy() + offsets[phase].numpy(), wanted, atol=1e-6)
    assert len(offsets) == target // np.gcd(source, target)
    assert ((offsets >= 0) & (offsets < 1)).all()


def test_many_phases_are_rounded_to_the_middle_of_a_sixteenth():
    base, phase, offsets = mvs.phases(97, 331)
    assert len(offsets) == 16
    wanted = (np.arange(331) + 0.5) * 97 / 331 - 0.5
    error = np.abs(base.numpy() + offsets[phase].numpy() - wanted)
    assert error.max() <= 1 / 32 + 1e-6


@pytest.mark.parametrize('size', [(20, 15), (10, 24), (8, 9), (5, 3), (7, 21), (85, 57)])
def test_meta_upscale_equals_a_kernel_for_each_pixel(size):
    """The literal form of Meta-SR: predict a kernel for every output pixel, apply it."""
    torch.manual_seed(0)
    features = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    rows, columns = mvs.phases(5, size[0]), mvs.phases(3, size[1])
    kernels = torch.randn(len(rows[2]), len(columns[2]), 6, 4, 3, 3, dtype=torch.float64)
    found = mvs.meta_upscale(features, kernels, rows[:2], columns[:2])
    assert found.shape == (2, 6, *size)
    padded = np.pad(features.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode='edge')
    for y in range(0, size[0], 3):
        for x in range(0, size[1], 2):
            top, left = rows[0][y].item() + 1, columns[0][x].item() + 1
            window = padded[:, :, top : top + 3, left : left + 3]
            kernel = kernels[rows[1][y], columns[1][x]].numpy()
            wanted = np.einsum('ncab,ocab->no', window, kernel)
            np.testing.assert_allclose(found[:, :, y, x].numpy(), wanted)


def photo_pair(transform):
    from mmext.datasets.photos import photo

    guide = np.ascontiguousarray(photo('coffee')[100:196, 200:328])
    target = guide @ transform[:, :3].T + 255 * transform[:, 3]
    return guide, np.clip(np.rint(target), 0, 255).astype(np.uint8)


MILD = np.array([[0.6, 0.2, 0.1, 0.05], [0.1, 0.7, 0.0, 0.02], [0.0, 0.2, 0.5, 0.1]])


def test_fits_find_the_transform_that_made_the_target():
    guide, target = photo_pair(MILD)
    np.testing.assert_allclose(local_affine.fit_global(guide, target, 1e-6), MILD, atol=5e-3)
    grid = local_affine.fit(guide, target, (12, 16))
    error = np.abs(local_affine.apply(guide, grid).astype(int) - target)
    assert error.max() <= 2 and error.mean() < 0.5
    # Rows of the grid are the transform, for each output in turn; seen where colours vary freely.
    guide = np.random.default_rng(0).integers(40, 200, (48, 64, 3), np.uint8)
    target = np.rint(guide @ MILD[:, :3].T + 255 * MILD[:, 3]).astype(np.uint8)
    grid = local_affine.fit(guide, target, (6, 8))
    np.testing.assert_allclose(
        grid.transpose(1, 2, 0).reshape(6, 8, 3, 4),
        MILD[None, None].repeat(6, 0).repeat(8, 1),
        atol=0.02,
    )


def test_a_fit_follows_a_transform_that_changes_over_the_picture():
    guide, target = photo_pair(MILD)
    side = np.linspace(0, 1, guide.shape[1])[None, :, None]
    target = np.rint(side * target + (1 - side) * guide).astype(np.uint8)
    local = local_affine.apply(guide, local_affine.fit(guide, target, (24, 32)))
    whole = local_affine.apply(
        guide, local_affine.constant(local_affine.fit_global(guide, target), (1, 1))
    )
    errors = [np.abs(made.astype(int) - target).mean() for made in (local, whole)]
    assert errors[0] < 1.5 and errors[0] < errors[1] / 3


def test_flat_places_keep_their_texture():
    """A plain guided filter would return the mean there."""
    rng = np.random.default_rng(0)
    guide = np.full((64, 64, 3), 120, np.uint8)
    guide[:, 32:] = 30
    guide += rng.integers(0, 5, guide.shape, np.uint8)
    target = np.rint(guide * 0.8 + 20).astype(np.uint8)
    made = local_affine.apply(guide, local_affine.fit(guide, target, (16, 16)))
    assert made[8:56, 8:24].std() > 0.7 * target[8:56, 8:24].std()


@pytest.mark.parametrize('grid', [(1, 1), (3, 5), (17, 2)])
def test_apply_interpolates_the_grid_bilinearly(grid):
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (51, 33, 3), np.uint8)
    planes = rng.uniform(-0.2, 0.4, (12, *grid)).astype(np.float32)
    height, width = frame.shape[:2]
    axes = []
    for side, cells in ((height, grid[0]), (width, grid[1])):
        place = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
        weights = np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0)
        axes.append(weights)
    full = np.einsum('ya,xb,cab->yxc', axes[0], axes[1], planes.astype(np.float64))
    full = full.reshape(height, width, 3, 4)
    wanted = np.einsum('yxck,yxk->yxc', full[..., :3], frame.astype(np.float64))
    wanted = np.clip(np.rint(wanted + 255 * full[..., 3]), 0, 255)
    made = local_affine.apply(frame, planes)
    error = np.abs(made - wanted)
    assert error.max() <= 1 and error.mean() < 0.01
    assert np.array_equal(local_affine.apply(frame, planes, slice(20, 49)), made[20:49])


def test_the_identity_is_exact():
    frame = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    identity = local_affine.constant(np.eye(3, 4), (4, 5))
    assert np.array_equal(local_affine.apply(frame, identity), frame)
    assert np.array_equal(
        local_affine.apply(frame, local_affine.fit(frame, frame, (10, 12))), frame
    )


def test_sizes_that_differ_are_an_error():
    guide = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match='sizes must be equal'):
        local_affine.fit(guide, guide[:6], (2, 2))
