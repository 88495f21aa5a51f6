"""Unsupervised domain adaptation on plain tensors.

The paper's abstract (arXiv 1703.04071) names three aims: invariance across domains, a small
divergence of the features, adapted label prediction. What serves them here are the methods of its
time: gradient reversal (arXiv 1505.07818), MK-MMD (DAN, arXiv 1502.02791), residual transfer and
target entropy (RTN, arXiv 1602.04433); further JMMD (JAN, arXiv 1605.06636), CORAL (arXiv
1607.01719) and soft neighbourhood density (SND, arXiv 2108.10860). Features are ``(N, D)``, logits
``(N, K)``.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SCHEDULES = ('constant', 'linear', 'sigmoid')
ESTIMATORS = ('quadratic', 'linear')
#: Widths of DAN's five kernels, relative to the mean squared distance.
ALPHAS = (0.125, 0.25, 0.5, 1.0, 2.0)

# A kernel: squared distances of any shape to similarities of that shape.
Kernel = Callable[[Tensor], Tensor]


def ramp(
    progress: float, schedule: str, alpha: float = 10.0, warmup: float = 1.0, begin: float = 0.0
) -> float:
    """Factor of a loss during the training.

    Args:
        progress: Share of the training that is done, in [0, 1].
        schedule: 'constant' is 1; 'linear' is p; 'sigmoid' is ``2 / (1 + exp(-alpha p)) - 1``
            (DANN), with ``p = min((progress - begin) / warmup, 1)``. All are 0 before ``begin``.
        alpha: Steepness of 'sigmoid', > 0 (DANN, RTN: 10).
        warmup: Share of the training in which p rises, in (0, 1] (DANN 1, RTN 0.1).
        begin: Share of the training at which it starts to rise, in [0, 1) (ours).
    """
    if progress < begin:
        return 0.0
    p = min((progress - begin) / warmup, 1.0)
    if schedule == 'sigmoid':
        return 2 / (1 + math.exp(-alpha * p)) - 1
    return p if schedule == 'linear' else 1.0


def inv_decay(step: int, gamma: float, power: float) -> float:
    """Return ``(1 + gamma step)^-power``, Caffe's schedule "inv"."""
    return (1 + gamma * step) ** -power


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


def reverse_gradient(inputs: Tensor, scale: float) -> Tensor:
    """Return ``inputs``, whose gradient becomes ``-scale`` times the incoming one (DANN).

    Between features and a domain classifier it makes features that the classifier cannot tell
    apart.

    Args:
        inputs: Any shape.
        scale: Factor, >= 0; :func:`ramp` with 'sigmoid' is DANN's schedule.

    Returns:
        ``inputs``.

    Reference: arXiv 1505.07818.

    Example:
        >>> import torch
        >>> from mmext.functional import reverse_gradient
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    return _Reverse.apply(inputs, scale)


def domain_cross_entropy(source: Tensor, target: Tensor) -> Tensor:
    """Loss of a domain classifier, source against target; each domain has half the weight.

    Args:
        source: Its logits on source samples, any shape; positive means "source".
        target: Its logits on target samples.

    Returns:
        Scalar >= 0, log 2 where the classifier is undecided.

    Reference: arXiv 1505.07818.

    Example:
        >>> import torch
        >>> from mmext.functional import domain_cross_entropy
        >>> domain_cross_entropy(torch.zeros(3), torch.zeros(5))
        tensor(0.6931)
    """
    return (F.softplus(-source).mean() + F.softplus(target).mean()) / 2


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """All squared Euclidean distances, ``(M, D)`` and ``(N, D)`` to ``(M, N)``."""
    # Distances do not change with the origin, rounding errors do.
    centre = second.detach().mean(0)
    first, second = first - centre, second - centre
    squares = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
    return squares.clamp(min=0)


def mean_squared_distance(points: Tensor) -> Tensor:
    """Mean squared distance over the pairs of distinct points of ``(N, D)``, in O(N D)."""
    centred = points - points.mean(0)
    return 2 * centred.square().sum() / (len(points) - 1)


def gaussian_kernels(source: Tensor, target: Tensor, alphas: Sequence[float]) -> Kernel:
    """Sum of Gaussian kernels whose widths follow the data.

    Args:
        source: ``(M, D)``.
        target: ``(N, D)``.
        alphas: Widths; ``k(d^2) = sum_a exp(-d^2 / (2 a mean(d^2)))``, where the mean is over all
            pairs of both domains and carries no gradient.
    """
    mean = mean_squared_distance(torch.cat([source, target]).detach())
    width = mean.clamp(min=torch.finfo(mean.dtype).tiny)
    return lambda squares: torch.stack([(-squares / (2 * a * width)).exp() for a in alphas]).sum(0)


def gaussian_kernel(sigma: float) -> Kernel:
    """Gaussian kernel of a fixed width, ``exp(-d^2 / (2 sigma^2))``."""
    return lambda squares: (-squares / (2 * sigma**2)).exp()


def mmd(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    kernels: Sequence[Kernel],
    estimator: str = 'quadratic',
) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy; it may be below zero.

    Args:
        source: Activations of one layer or more, each ``(M, D_l)``.
        target: The same layers, each ``(N, D_l)``.
        kernels: One per layer; their product is the kernel of the joint distribution (JAN).
        estimator: 'quadratic': all pairs of distinct samples. 'linear': disjoint quadruples
            (arXiv 1502.02791, Eq. 3), of the first ``2 floor(min(M, N) / 2)`` samples; O(N), of
            higher variance.

    Returns:
        Scalar.

    Raises:
        ValueError: Unknown estimator, or fewer than two samples of a domain.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f'estimator={estimator!r} must be one of {", ".join(ESTIMATORS)}')
    m, n = len(source[0]), len(target[0])
    if min(m, n) < 2:
        raise ValueError(
            f'MMD needs two samples of each domain, got {m} of the source and {n} of the target; '
            'raise batch_size'
        )

    def joint(
        first: Sequence[Tensor],
        second: Sequence[Tensor],
        distances: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        layers = zip(first, second, kernels, strict=True)
        return reduce(torch.mul, [kernel(distances(a, b)) for a, b, kernel in layers])

    if estimator == 'linear':
        end = min(m, n) // 2 * 2
        s1, s2, t1, t2 = (
            [layer[start:end:2] for layer in layers]
            for layers in (source, target)
            for start in (0, 1)
        )
        within = joint(s1, s2, _paired_distances) + joint(t1, t2, _paired_distances)
        across = joint(s1, t2, _paired_distances) + joint(s2, t1, _paired_distances)
        return (within - across).mean()
    return (
        _off_diagonal_mean(joint(source, source, squared_distances))
        + _off_diagonal_mean(joint(target, target, squared_distances))
        - 2 * joint(source, target, squared_distances).mean()
    )


def _paired_distances(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().sum(1)


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))


def mk_mmd(
    source: Tensor,
    target: Tensor,
    alphas: Sequence[float] = ALPHAS,
    estimator: str = 'quadratic',
) -> Tensor:
    """Multi-kernel MMD of DAN, with equal weights of the kernels (DAN learns them).

    In full precision only: call it outside of autocast.

    Args:
        source: Features ``(M, D)``, M at least 2.
        target: Features ``(N, D)``, N at least 2.
        alphas: Widths of the kernels relative to the mean squared distance, > 0.
        estimator: 'quadratic' or 'linear', see :func:`mmd`.

    Returns:
        Scalar, an unbiased estimate that may be below zero.

    Raises:
        ValueError: Unknown estimator, or fewer than two samples of a domain.

    Reference: arXiv 1502.02791.

    Example:
        >>> import torch
        >>> from mmext.functional import mk_mmd
        >>> source = torch.linspace(0, 1, 8)[:, None]
        >>> bool(mk_mmd(source, source + 3) > mk_mmd(source, source + 0.3))
        True
    """
    return mmd([source], [target], [gaussian_kernels(source, target, alphas)], estimator)


def jmmd(
    source: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor],
    alphas: Sequence[float] = ALPHAS,
    sigma: float = 0.92,
    estimator: str = 'quadratic',
) -> Tensor:
    """Joint MMD of JAN, over features and predictions.

    Args:
        source: Features ``(M, D)`` and class probabilities ``(M, K)``.
        target: Features ``(N, D)`` and class probabilities ``(N, K)``.
        alphas: Kernels of the features, see :func:`gaussian_kernels`.
        sigma: Width of the only kernel of the probabilities (JAN's code).
        estimator: See :func:`mmd`.

    Returns:
        Scalar, an unbiased estimate that may be below zero.

    Raises:
        ValueError: Unknown estimator, or fewer than two samples of a domain.

    Reference: arXiv 1605.06636.

    Example:
        >>> import torch
        >>> from mmext.functional import jmmd
        >>> features, classes = torch.linspace(0, 1, 8)[:, None], torch.eye(2).repeat(4, 1)
        >>> alike = jmmd((features, classes), (features, classes))
        >>> bool(jmmd((features, classes), (features, classes.roll(1, 0))) > alike)
        True
    """
    kernels = [gaussian_kernels(source[0], target[0], alphas), gaussian_kernel(sigma)]
    return mmd(source, target, kernels, estimator)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """CORAL, ``||C_s - C_t||_F^2 / (4 D^2)``, with unbiased covariances.

    In full precision only: call it outside of autocast.

    Args:
        source: Features ``(M, D)``, M at least 2.
        target: Features ``(N, D)``, N at least 2.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: Fewer than two samples of a domain.

    Reference: Deep CORAL, arXiv 1607.01719.

    Example:
        >>> import torch
        >>> from mmext.functional import coral
        >>> source = torch.tensor([[0.0], [2.0]])  # variance 2
        >>> coral(source, source + 5), coral(source, 2 * source)  # variance 2 and 8
        (tensor(0.), tensor(9.))
    """
    if min(len(source), len(target)) < 2:
        raise ValueError(
            f'CORAL needs two samples of each domain, got {len(source)} of the source and '
            f'{len(target)} of the target; raise batch_size'
        )
    gap = _covariance(source) - _covariance(target)
    return gap.square().sum() / (4 * source.shape[1] ** 2)


def _covariance(points: Tensor) -> Tensor:
    centred = points - points.mean(0)
    return centred.T @ centred / (len(points) - 1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each prediction in nats: on target samples, the adapted label prediction of RTN.

    Args:
        logits: ``(N, K)``.

    Returns:
        ``(N,)``, in [0, log K].

    Reference: arXiv 1602.04433.

    Example:
        >>> import torch
        >>> from mmext.functional import entropy
        >>> entropy(torch.zeros(2, 4))  # log 4
        tensor([1.3863, 1.3863])
    """
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def soft_neighbourhood_density(
    probabilities: Tensor, temperature: float = 0.05, chunk: int = 1024
) -> Tensor:
    """Entropy of the similarities of each prediction to all others, averaged (SND); more is better.

    Args:
        probabilities: Class probabilities ``(N, K)``, N at least 2.
        temperature: Of the softmax over the similarities (SND).
        chunk: Rows of the (N, N) similarities that are held at a time.

    Returns:
        Scalar in nats, at most log(N - 1).
    """
    points = F.normalize(probabilities, dim=1)
    total = points.new_zeros(())
    for start in range(0, len(points), chunk):
        rows = points[start : start + chunk] @ points.T / temperature
        own = torch.arange(len(rows), device=rows.device)
        rows[own, own + start] = -math.inf
        logs = rows.log_softmax(1)
        # 0 log 0 is 0, also for the sample itself.
        total = total - (logs.exp() * logs.clamp(min=-1e4)).sum()
    return total / len(points)
