"""Distances between sets of features against closed forms and slow references."""

import math

import numpy as np
import pytest
import scipy.linalg

from mmext.engine.rng import derive_seed
from mmext.evaluation import generative as G


def covariance(rng, size, rank=None):
    root = rng.standard_normal((size, rank or 2 * size))
    return root @ root.T / root.shape[1]


def test_gaussian_is_numpys():
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    mean, cov = G.gaussian(rows)
    assert mean.dtype == cov.dtype == np.float64
    centred = rows.astype(np.float64) - mean
    assert np.allclose(cov, centred.T @ centred / 49)
    assert G.gaussian(rows[:, :1])[1].shape == (1, 1)
    with pytest.raises(ValueError, match='n >= 2'):
        G.gaussian(rows[:1])


def test_frechet_distance_of_commuting_gaussians():
    """Diagonal covariances: |m|^2 + sum (s1 - s2)^2."""
    mean1, mean2 = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    s1, s2 = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5])
    found = G.frechet_distance(mean1, np.diag(s1**2), mean2, np.diag(s2**2))
    assert found == pytest.approx(5 + 1 + 0 + 6.25)


@pytest.mark.parametrize('size, rank', [(2, None), (16, None), (16, 5)])
def test_frechet_distance_against_scipys_root(size, rank):
    rng = np.random.default_rng(size)
    mean1, mean2 = rng.standard_normal((2, size))
    cov1, cov2 = covariance(rng, size), covariance(rng, size, rank)
    root = scipy.linalg.sqrtm(cov1 @ cov2).real
    expected = np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert G.frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-5)
    assert G.frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(expected, rel=1e-5)
    assert G.frechet_distance(mean1, cov2, mean1, cov2) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_samples_nears_that_of_their_gaussians():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 20000, 3))
    found = G.frechet_distance(*G.gaussian(first), *G.gaussian(2 * second + 1))
    assert found == pytest.approx(3 * (1 + 1), rel=0.05)


def test_inception_score():
    sharp = np.eye(5).repeat(4, 0)
    assert G.inception_score(sharp)[0] == pytest.approx(5), 'k classes, all sure'
    assert G.inception_score(np.full((20, 5), 0.2))[0] == pytest.approx(1)
    assert G.inception_score(np.tile(np.eye(5)[0], (20, 1)))[0] == pytest.approx(1), 'collapse'
    rows = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    order = np.random.default_rng(derive_seed(0, 'inception score')).permutation(30)
    parts = np.split(rows[order], 3)
    scores = [
        math.exp(np.mean([sum(p * math.log(p / q) for p, q in zip(row, part.mean(0), strict=True))
                          for row in part]))
        for part in parts
    ]  # fmt: skip
    assert G.inception_score(np.eye(10).repeat(100, 0), splits=10)[0] > 9, 'sorted by class'
    mean, spread = G.inception_score(rows, splits=3)
    assert (mean, spread) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores)))
    with pytest.raises(ValueError, match='splits=31'):
        G.inception_score(rows, splits=31)


def test_kernel_distance_against_loops():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((6, 3)), rng.standard_normal((5, 3)) + 1

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    def mean(first, second, skip):
        pairs = [kernel(x, y) for i, x in enumerate(first) for j, y in enumerate(second)
                 if not (skip and i == j)]  # fmt: skip
        return np.mean(pairs)

    expected = mean(real, real, True) + mean(fake, fake, True) - 2 * mean(real, fake, False)
    assert G.kernel_distance(real, fake) == pytest.approx(expected)
    with pytest.raises(ValueError, match='at least two'):
        G.kernel_distance(real[:1], fake)


def test_kernel_distance_of_subsets_is_unbiased_and_repeatable():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((400, 4)), rng.standard_normal((400, 4)) + 0.5
    whole = G.kernel_distance(real, fake)
    parts = G.kernel_distance(real, fake, subset_size=200, subsets=30)
    assert parts == pytest.approx(whole, rel=0.15) and parts != whole
    assert parts == G.kernel_distance(real, fake, subset_size=200, subsets=30)
    assert abs(G.kernel_distance(real, rng.standard_normal((400, 4)))) < 0.05 * whole


def test_precision_and_recall():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((300, 2))
    assert G.precision_recall(real, real) == (1, 1)
    assert G.precision_recall(real, real + 100) == (0, 0)
    # Half of what is real, all of it plausible.
    half = real[real[:, 0] > 0]
    precision, recall = G.precision_recall(real, half)
    assert precision == 1 and 0.45 < recall < 0.65
    with pytest.raises(ValueError, match='k=3'):
        G.precision_recall(real, real[:3])


def test_manifolds_against_loops():
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((40, 3)), rng.standard_normal((30, 3)) + 0.7

    def share(points, centres):
        radii = [sorted(np.linalg.norm(centres - c, axis=1))[2] for c in centres]
        return np.mean([
            any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True))
            for p in points
        ])  # fmt: skip

    found = G.precision_recall(real, fake, k=2)
    assert found == (share(fake, real), share(real, fake))
    assert G._covered(fake, real, 2, block=7) == found[0]
