"""How near two sets of images are, measured on features; no MMEngine, no scipy.

Features are (n, d) arrays of any extractor. Names follow the papers: Frechet distance (FID, arXiv
1706.08500), Inception score (1606.03498), kernel distance (KID, 1801.01401), precision and recall
(1904.06991).
"""

import numpy as np

from mmext.engine.rng import derive_seed


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) in float64.

    Raises:
        ValueError: Fewer than two rows.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f'features must be (n, d) with n >= 2, got {features.shape}')
    features = features.astype(np.float64)
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """Frechet distance of two Gaussians: ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``.

    The trace of the root is the sum of the roots of the eigenvalues of ``C1 C2``, which are those
    of the symmetric ``C1^(1/2) C2 C1^(1/2)``; so singular covariances need no care and nothing
    becomes complex.

    Args:
        mean1: (d,).
        cov1: (d, d), symmetric.
        mean2: (d,).
        cov2: (d, d), symmetric.
    """
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov2 @ root).clip(min=0)
    shift = np.square(mean1 - mean2).sum()
    return float(shift + np.trace(cov1) + np.trace(cov2) - 2 * np.sqrt(product).sum())


def inception_score(probabilities: np.ndarray, splits: int = 1) -> tuple[float, float]:
    """``exp(E KL(p(y|x) || p(y)))``, mean and standard deviation over splits.

    Args:
        probabilities: (n, k), rows sum to 1.
        splits: Equal parts, each scored by itself, in 1..n. Rows go to parts in an order drawn
            once and for all: rows sorted by class would give parts of few classes.

    Raises:
        ValueError: ``splits`` is out of range.
    """
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f'splits={splits} must be in 1..{len(probabilities)}, the samples')
    scores = []
    order = np.random.default_rng(derive_seed(0, 'inception score')).permutation(len(probabilities))
    for part in np.array_split(probabilities[order].astype(np.float64), splits):
        marginal = part.mean(0)
        with np.errstate(divide='ignore', invalid='ignore'):
            terms = np.where(part > 0, part * (np.log(part) - np.log(marginal)), 0)
        scores.append(np.exp(terms.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, subset_size: int = 1000, subsets: int = 20, seed: int = 0
) -> float:
    """Unbiased squared MMD with the kernel ``(x.y / d + 1)^3``.

    Args:
        real: (n, d).
        fake: (m, d).
        subset_size: Rows of each set in one estimate; where both sets are no larger, there is one
            estimate on all.
        subsets: Estimates that are averaged otherwise.
        seed: Of the choice of rows.

    Raises:
        ValueError: A set has fewer than two rows.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError('kernel_distance needs at least two real and two fake images')
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    if max(len(real), len(fake)) <= subset_size:
        return _mmd(real, fake)
    draws = np.random.default_rng(derive_seed(seed, 'kid'))
    found = []
    for _ in range(subsets):
        parts = [
            rows[draws.choice(len(rows), min(subset_size, len(rows)), replace=False)]
            for rows in (real, fake)
        ]
        found.append(_mmd(*parts))
    return float(np.mean(found))


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Share of fakes within the manifold of the real images, and the reverse.

    A manifold is the union of balls around its images that reach to their k-th neighbour.

    Args:
        real: (n, d).
        fake: (m, d).
        k: Neighbour, in 1..min(n, m) - 1.

    Raises:
        ValueError: ``k`` is out of range.
    """
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f'k={k} must be in 1..{min(len(real), len(fake)) - 1}')
    return _covered(fake, real, k), _covered(real, fake, k)


def _covered(points: np.ndarray, centres: np.ndarray, k: int, block: int = 512) -> float:
    centres = centres.astype(np.float64)
    radii = np.concatenate(
        [
            # The nearest one is the point itself.
            np.partition(_distances(centres[i : i + block], centres), k, axis=1)[:, k]
            for i in range(0, len(centres), block)
        ]
    )
    inside = [
        (_distances(points[i : i + block].astype(np.float64), centres) <= radii).any(1)
        for i in range(0, len(points), block)
    ]
    return float(np.concatenate(inside).mean())


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances (n, m)."""
    squares = np.square(first).sum(1)[:, None] + np.square(second).sum(1)
    return (squares - 2 * first @ second.T).clip(min=0)


def _mmd(first: np.ndarray, second: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        matrix = kernel(x, x)
        return (matrix.sum() - np.trace(matrix)) / (len(x) * (len(x) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())
