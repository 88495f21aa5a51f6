"""The mathematics of ADRE training and of randomized-smoothing certificates.

Training acts on tensors; the certificate is statistics on the host in float64 (NumPy). The risk
follows the paper's idea (regularise the smoothed classifier's runner-up); its exact form is that
of a third party's re-implementation. What makes the certificate sound is ours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import beta, binom, norm
from torch import Tensor

#: Prediction of an image on which the smoothed classifier abstains.
ABSTAIN = -1
METHODS = ('cohen', 't_certify')

# Share of alpha spent on the top class. Two candidates suffice: between 0.1 and 0.9 the radius
# hardly moves unless one of the two bounds is not needed at all.
_EVEN, _TOP_ONLY = 0.5, 0.99


def smoothed_log_probs(logits: Tensor) -> Tensor:
    """``log G(x)``, ``G(x) = mean_j softmax f(x + d_j)``, the soft smoothed classifier.

    ``logsumexp_j log_softmax - log M`` in at least float32: the mean of probabilities would
    underflow to log 0 in half precision.

    Args:
        logits: Of M noisy copies, (M, N, K).

    Returns:
        Log probabilities, (N, K).

    Raises:
        ValueError: ``logits`` has another number of dimensions or only one class.
    """
    if logits.ndim != 3 or logits.shape[2] < 2:
        raise ValueError(
            f'logits must be (noise, images, classes >= 2), got shape {tuple(logits.shape)}'
        )
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return precise.log_softmax(2).logsumexp(0) - float(np.log(len(logits)))


def adre_terms(logits: Tensor, y: Tensor, floor: float = -10.0) -> tuple[Tensor, Tensor]:
    """The two terms of the regularised risk.

    ``R_per = mean_j CE(f(x + d_j), y)`` and ``R_adre = log G_{c*}(x)`` with ``c*`` the likeliest
    wrong class of G: the runner-up, or the top class where G errs.

    Args:
        logits: Of M noisy copies, (M, N, K).
        y: Labels, int64 (N,).
        floor: Least value of ``log G_{c*}`` (ours), < 0. The regulariser is unbounded below; from
            the floor on it has no gradient. At the default the runner-up is rarer than what
            100,000 samples can tell from 0.

    Returns:
        ``(R_per, R_adre)``, scalars in at least float32; the mean over the images.

    Raises:
        ValueError: Shapes do not fit or ``floor`` is not negative.
    """
    if floor >= 0:
        raise ValueError(f'floor={floor} is a log probability and must be negative')
    log_g = smoothed_log_probs(logits)
    noise, images, classes = logits.shape
    if y.shape != (images,):
        raise ValueError(f'y must be ({images},) for logits {tuple(logits.shape)}, got {y.shape}')
    flat = logits.reshape(noise * images, classes)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    perturbed = F.cross_entropy(flat, y.repeat(noise))
    own = F.one_hot(y, classes).bool()
    runner_up = log_g.masked_fill(own, -torch.inf).amax(1)
    return perturbed, runner_up.clamp_min(floor).mean()


def adre_loss(logits: Tensor, y: Tensor, weight: float = 0.1, floor: float = -10.0) -> Tensor:
    """The regularised risk ``R_per + weight * R_adre``.

    Args:
        logits: Of M noisy copies, (M, N, K).
        y: Labels, int64 (N,).
        weight: lambda, >= 0. 0.1 is a third party's value, unverified as the paper's.
        floor: See :func:`adre_terms`.

    Returns:
        Scalar in at least float32; can be negative.
    """
    perturbed, adre = adre_terms(logits, y, floor)
    return perturbed + weight * adre


def smooth_adv(
    logits_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    eps: float,
    steps: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Attack the soft smoothed classifier within an L2 ball (SmoothAdv, arXiv 1906.04584).

    ``steps`` ascents of length ``2 eps / steps`` along the normalised gradient of ``-log G_y(x)``,
    with one fixed set of noise, projected on box and ball after each.

    Args:
        logits_fn: Pixels (B, C, H, W) to logits (B, K).
        x: Images, (N, C, H, W) within ``bounds``.
        y: Labels, int64 (N,).
        noise: ``d_j`` of all images, (M, N, C, H, W), in pixels.
        eps: Radius of the ball in pixels, > 0.
        steps: >= 1. Each costs a forward and a backward pass of M * N images.
        bounds: Range of the pixels.

    Returns:
        Adversarial images without gradient, (N, C, H, W): within ``bounds`` and, up to rounding,
        within ``eps`` of ``x``.

    Raises:
        ValueError: ``eps`` or ``steps`` is out of range.
    """
    if not eps > 0 or steps < 1:
        raise ValueError(f'eps={eps} must be positive and steps={steps} at least 1')
    x, count = x.detach(), len(noise)
    delta = torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        noisy = (x + delta + noise).flatten(0, 1)
        log_g = smoothed_log_probs(logits_fn(noisy).unflatten(0, (count, len(x))))
        objective = -log_g.gather(1, y[:, None]).sum()
        (gradient,) = torch.autograd.grad(objective, delta)
        with torch.no_grad():
            length = _norms(gradient)
            step = gradient / torch.where(length > 0, length, torch.ones_like(length))
            delta = (x + delta + step * (2 * eps / steps)).clamp(*bounds) - x
            delta = delta * (eps / _norms(delta).clamp_min(eps))
    return (x + delta).detach()


def _norms(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1).reshape(-1, *[1] * (images.ndim - 1))


def certify(
    counts_select: Any, counts: Any, sigma: float, alpha: float = 0.001, method: str = 't_certify'
) -> tuple[Any, Any]:
    """Predict the smoothed classifier and bound the L2 radius within which it cannot change.

    With probability at least ``1 - alpha`` over the noise, an image that is not abstained on keeps
    its prediction within the radius. The predicted class A is the top one of ``counts_select``, so
    that ``counts`` are fresh. All bounds are Clopper-Pearson's.

    - ``'cohen'`` (arXiv 1902.02918): ``sigma * Phi^-1(pA_low)``; abstains if ``pA_low < 1/2``.
    - ``'t_certify'``: ``sigma / 2 * (Phi^-1(pA_low) - Phi^-1(pB_up))``; abstains if
      ``pA_low <= pB_up``. pB_up bounds every class but A (Bonferroni over K - 1, ours) and is never
      above ``1 - pA_low``; the two levels add up to ``alpha`` and their split is chosen by
      :func:`choose_split` from ``counts_select`` (ours; choosing it after seeing ``counts`` would
      spend up to twice the level).

    Floating-point error of the classifier and the noise is not accounted for.

    Args:
        counts_select: How often each class won among the n0 selection samples, (K,) or (N, K).
        counts: The same for n fresh samples.
        sigma: Standard deviation of the noise, > 0; the radius has its unit.
        alpha: Chance of a wrong certificate per image, in (0, 1).
        method: One of :data:`METHODS`.

    Returns:
        ``(prediction, radius)``: int64 and float64, scalars for (K,), arrays (N,) for (N, K).
        Where it abstains, ``ABSTAIN`` (-1) and 0.

    Raises:
        ValueError: An argument is out of its range.
    """
    if method not in METHODS:
        raise ValueError(f'method={method!r} is unknown; choose one of {list(METHODS)}')
    check_sigma(sigma)
    if not 0 < alpha < 1:
        raise ValueError(f'alpha={alpha} must be in (0, 1)')
    select, fresh = _as_counts(counts_select, 'counts_select'), _as_counts(counts, 'counts')
    if select.shape != fresh.shape:
        raise ValueError(f'counts_select {select.shape} and counts {fresh.shape} must agree')
    top = select.argmax(-1)
    if method == 'cohen':
        n_top = np.take_along_axis(fresh, top[..., None], -1)[..., 0]
        low = _lower(n_top, fresh.sum(-1), alpha)
        kept, radius = low >= 0.5, sigma * norm.ppf(low)
    else:
        share = choose_split(select, fresh.sum(-1), alpha)
        radius = two_sided_radius(fresh, top, sigma, alpha * share, alpha * (1 - share))
        kept = radius > 0
    return np.where(kept, top, ABSTAIN)[()], np.where(kept, radius, 0.0)[()]


def check_sigma(sigma: float) -> None:
    """Raise ValueError unless ``sigma`` is positive."""
    if not sigma > 0:
        raise ValueError(
            f'sigma={sigma} must be positive: without noise nothing is smoothed; pixels have the '
            'range [0, 1], usual values are 0.12 to 1.0'
        )


def choose_split(counts_select: Any, n: Any, alpha: float) -> Any:
    """Choose the share of ``alpha`` for the top class from the selection samples alone (ours).

    The split with the larger radius were the n fresh samples to fall like the selection samples:
    even where a gap ``1 - pA - pB`` is seen, nearly all for the top class where it is not (two
    classes, or one only).

    Args:
        counts_select: Selection counts, (K,) or (N, K).
        n: Number of fresh samples, a scalar or (N,).
        alpha: As in :func:`certify`.

    Returns:
        Share in (0, 1), a scalar or (N,).
    """
    select = _as_counts(counts_select, 'counts_select')
    expected = select / select.sum(-1, keepdims=True) * np.asarray(n)[..., None]
    top = select.argmax(-1)
    radii = [
        two_sided_radius(expected, top, 1.0, alpha * share, alpha * (1 - share))
        for share in (_EVEN, _TOP_ONLY)
    ]
    return np.where(radii[1] > radii[0], _TOP_ONLY, _EVEN)[()]


def two_sided_radius(counts: Any, top: Any, sigma: float, alpha_top: Any, alpha_rest: Any) -> Any:
    """``sigma / 2 * (Phi^-1(pA_low) - Phi^-1(pB_up))``, negative where nothing is certified.

    Sound at level ``alpha_top + alpha_rest`` if these and ``top`` do not depend on ``counts``.

    Args:
        counts: (K,) or (N, K).
        top: Class A, a scalar or (N,).
        sigma: Standard deviation of the noise, > 0.
        alpha_top: Level of the lower bound of class A, a scalar or (N,).
        alpha_rest: Level of the upper bounds of all other classes together.

    Returns:
        Radius, a scalar or (N,).
    """
    counts = np.asarray(counts, np.float64)
    n, top = counts.sum(-1), np.asarray(top)[..., None]
    low = _lower(np.take_along_axis(counts, top, -1)[..., 0], n, alpha_top)
    rest = counts.copy()
    np.put_along_axis(rest, top, -1, -1)
    # The bound grows with the count, so the class seen most often has the greatest.
    up = _upper(rest.max(-1), n, np.asarray(alpha_rest) / (counts.shape[-1] - 1))
    up = np.minimum(up, 1 - low)
    return sigma / 2 * (norm.ppf(low) - norm.ppf(up))


def predict(counts: Any, alpha: float = 0.001) -> Any:
    """Predict the smoothed classifier, or abstain (arXiv 1902.02918, PREDICT).

    The top class is returned unless a two-sided binomial test cannot tell it from the runner-up at
    level ``alpha``; a wrong class is returned with probability at most ``alpha``.

    Args:
        counts: How often each class won, (K,) or (N, K).
        alpha: In (0, 1).

    Returns:
        Classes or ``ABSTAIN``, int64, a scalar or (N,).
    """
    if not 0 < alpha < 1:
        raise ValueError(f'alpha={alpha} must be in (0, 1)')
    seen = _as_counts(counts, 'counts')
    second, first = np.moveaxis(np.sort(seen, -1)[..., -2:], -1, 0)
    p_value = np.minimum(1.0, 2 * binom.sf(first - 1, first + second, 0.5))
    return np.where(p_value > alpha, ABSTAIN, seen.argmax(-1))[()]


def sampling_stages(n: int, alpha: float) -> list[tuple[int, float]]:
    """Plan looks at a growing sample that together spend ``alpha`` (ours; union bound).

    The last look, at all n samples, has half of alpha; looks at n / 10, n / 100 … share the rest.
    Whoever stops at any of them holds a certificate at level ``alpha``.

    Args:
        n: Samples at the last look, >= 1.
        alpha: Level of all looks together.

    Returns:
        ``(samples so far, level of this look)`` in increasing order; looks below 100 are left out.
    """
    sizes = [n]
    while sizes[0] // 10 >= 100:
        sizes.insert(0, sizes[0] // 10)
    if len(sizes) == 1:
        return [(n, alpha)]
    early = alpha / 2 / (len(sizes) - 1)
    return [(size, early) for size in sizes[:-1]] + [(n, alpha / 2)]


def radius_within_reach(
    counts: Any, top: Any, sigma: float, alpha: float, method: str = 't_certify'
) -> Any:
    """Upper confidence bound of the radius that ``method`` can reach with more samples (ours).

    Whoever wants a radius above it can stop sampling: a decision about effort, on which no
    certificate depends.

    Args:
        counts: (K,) or (N, K).
        top: Class A, a scalar or (N,).
        sigma: Standard deviation of the noise, > 0.
        alpha: Level of each bound, in (0, 1).
        method: One of :data:`METHODS`.

    Returns:
        Radius, a scalar or (N,); infinite where no other class was seen.
    """
    seen = _as_counts(counts, 'counts')
    n, top = seen.sum(-1), np.asarray(top)[..., None]
    reach_top = norm.ppf(_upper(np.take_along_axis(seen, top, -1)[..., 0], n, alpha))
    if method == 'cohen':
        return sigma * reach_top
    rest = seen.copy()
    np.put_along_axis(rest, top, -1, -1)
    return sigma / 2 * (reach_top - norm.ppf(_lower(rest.max(-1), n, alpha)))


def _as_counts(counts: Any, name: str) -> np.ndarray:
    found = np.asarray(counts.cpu() if isinstance(counts, Tensor) else counts)
    if found.ndim not in (1, 2) or found.shape[-1] < 2:
        raise ValueError(f'{name} must be (K,) or (N, K) with K >= 2 classes, got {found.shape}')
    if (found < 0).any() or (found != np.floor(found)).any():
        raise ValueError(f'{name} must be non-negative whole numbers: counts, not probabilities')
    if (found.sum(-1) == 0).any():
        raise ValueError(f'{name} must hold at least one sample per image')
    return found.astype(np.int64)


def _lower(k: Any, n: Any, alpha: Any) -> Any:
    """Clopper-Pearson lower bound of k successes out of n."""
    low = beta.ppf(alpha, np.maximum(k, 1e-300), n - k + 1)
    return np.where(k > 0, low, 0.0)


def _upper(k: Any, n: Any, alpha: Any) -> Any:
    """Clopper-Pearson upper bound of k successes out of n."""
    up = beta.isf(alpha, k + 1, np.maximum(n - k, 1e-300))
    return np.where(k < n, up, 1.0)
