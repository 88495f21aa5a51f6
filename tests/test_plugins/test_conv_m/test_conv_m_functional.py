"""The arithmetic of domain adaptation against double loops in float64 and closed forms."""

import math

import numpy as np
import pytest
import torch

from mmext.plugins.conv_m.functional import (
    ALPHAS,
    coral,
    domain_cross_entropy,
    entropy,
    gaussian_kernel,
    inv_decay,
    jmmd,
    mean_squared_distance,
    mk_mmd,
    mmd,
    ramp,
    reverse_gradient,
    soft_neighbourhood_density,
    squared_distances,
)


@pytest.fixture
def domains():
    draws = torch.Generator().manual_seed(0)
    source = torch.randn(6, 5, generator=draws, dtype=torch.float64)
    target = torch.randn(9, 5, generator=draws, dtype=torch.float64) * 1.5 + 0.3
    return source, target


def gap(x, y):
    return sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))


def multi_kernel(source, target, alphas=ALPHAS):
    """The kernel by loops: the mean of all pairs of distinct points, then the sum."""
    points = [*source, *target]
    pairs = [gap(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
    mean = sum(pairs) / len(pairs)
    return lambda x, y: sum(math.exp(-gap(x, y) / (2 * a * mean)) for a in alphas)


def quadratic_by_loops(source, target, kernel):
    """``kernel(i, j, of_i, of_j)`` of samples of two lists."""
    m, n = len(source), len(target)
    within = [
        sum(kernel(points, i, points, j) for i in range(k) for j in range(k) if i != j)
        / (k * (k - 1))
        for points, k in ((source, m), (target, n))
    ]
    across = sum(kernel(source, i, target, j) for i in range(m) for j in range(n)) / (m * n)
    return sum(within) - 2 * across


def linear_by_loops(source, target, kernel):
    count = min(len(source), len(target)) // 2
    total = 0.0
    for q in range(count):
        a, b = 2 * q, 2 * q + 1
        total += kernel(source, a, source, b) + kernel(target, a, target, b)
        total -= kernel(source, a, target, b) + kernel(source, b, target, a)
    return total / count


LOOPS = {'quadratic': quadratic_by_loops, 'linear': linear_by_loops}


@pytest.mark.parametrize('estimator', LOOPS)
def test_mk_mmd_is_the_double_loop(domains, estimator):
    source, target = domains
    of_points = multi_kernel(source, target)
    expected = LOOPS[estimator](source, target, lambda s, i, t, j: of_points(s[i], t[j]))
    found = mk_mmd(source, target, estimator=estimator)
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('estimator', LOOPS)
def test_jmmd_is_the_double_loop(domains, estimator):
    source, target = domains
    of_source, of_target = (points[:, :3].softmax(1) for points in domains)
    of_points = multi_kernel(source, target)
    probabilities = {id(source): of_source, id(target): of_target}

    def kernel(s, i, t, j):
        second = gap(probabilities[id(s)][i], probabilities[id(t)][j])
        return of_points(s[i], t[j]) * math.exp(-second / (2 * 0.92**2))

    expected = LOOPS[estimator](source, target, kernel)
    found = jmmd((source, of_source), (target, of_target), estimator=estimator)
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('estimator, tolerance', [('quadratic', 0.01), ('linear', 0.03)])
@pytest.mark.parametrize('shift', [0.0, 1.0])
def test_estimates_meet_the_closed_form_of_gaussians(estimator, tolerance, shift):
    draws = torch.Generator().manual_seed(3)
    source = torch.randn(2000, 3, generator=draws, dtype=torch.float64)
    target = torch.randn(2000, 3, generator=draws, dtype=torch.float64)
    target[:, 0] += shift
    sigma = 1.2
    scale = (sigma**2 / (sigma**2 + 2)) ** 1.5
    expected = 2 * scale * (1 - math.exp(-(shift**2) / (2 * (sigma**2 + 2))))
    found = mmd([source], [target], [gaussian_kernel(sigma)], estimator)
    assert float(found) == pytest.approx(expected, abs=tolerance)
    assert tolerance < 0.5 * 2 * scale * (1 - math.exp(-1 / (2 * (sigma**2 + 2))))


def test_the_width_of_the_kernels_carries_no_gradient(domains):
    source, target = (points.clone().requires_grad_() for points in domains)
    (found,) = torch.autograd.grad(mk_mmd(source, target), source)
    of_points = {}

    def with_fixed_width(points):
        if not of_points:
            mean = mean_squared_distance(torch.cat([source, target]).detach())
            of_points['kernel'] = lambda d: sum(torch.exp(-d / (2 * a * mean)) for a in ALPHAS)
        return mmd([points], [target.detach()], [of_points['kernel']])

    assert torch.autograd.gradcheck(with_fixed_width, source)
    (expected,) = torch.autograd.grad(with_fixed_width(source), source)
    torch.testing.assert_close(found, expected)


def test_equal_features_have_a_finite_gradient():
    source = torch.zeros(4, 3, requires_grad=True)
    for estimator in LOOPS:
        value = mk_mmd(source, torch.zeros(4, 3), estimator=estimator)
        assert float(value.detach()) == 0
        (gradient,) = torch.autograd.grad(value, source)
        assert gradient.isfinite().all()


def test_distances_far_from_the_origin():
    points = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)) + 1000
    exact = (points[:, None] - points).double().square().sum(2)
    torch.testing.assert_close(squared_distances(points, points).double(), exact, rtol=1e-4,
                               atol=1e-4)  # fmt: skip
    pairs = exact.sum() / (20 * 19)
    torch.testing.assert_close(mean_squared_distance(points).double(), pairs, rtol=1e-4, atol=0)


def test_coral_is_the_double_loop(domains):
    source, target = domains
    width = source.shape[1]

    def covariance(points, a, b):
        rows = points.tolist()
        means = [sum(row[k] for row in rows) / len(rows) for k in (a, b)]
        return sum((r[a] - means[0]) * (r[b] - means[1]) for r in rows) / (len(rows) - 1)

    expected = sum(
        (covariance(source, a, b) - covariance(target, a, b)) ** 2
        for a in range(width)
        for b in range(width)
    ) / (4 * width**2)
    assert float(coral(source, target)) == pytest.approx(expected, rel=1e-12)
    by_numpy = np.cov(source.numpy().T) - np.cov(target.numpy().T)
    assert float(coral(source, target)) == pytest.approx((by_numpy**2).sum() / (4 * width**2))


def test_too_few_samples_and_unknown_estimators(domains):
    source, target = domains
    for function in (mk_mmd, coral):
        with pytest.raises(ValueError, match='two samples of each domain, got 1 of the source'):
            function(source[:1], target)
    with pytest.raises(ValueError, match="estimator='cubic'"):
        mk_mmd(source, target, estimator='cubic')


def test_gradient_reversal_turns_and_scales():
    inputs = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64)
    for scale in (0.0, 0.7, 2.0):
        reversed_ = reverse_gradient(inputs, scale)
        assert torch.equal(reversed_, inputs)
        (gradient,) = torch.autograd.grad((weight * reversed_.sin()).sum(), inputs)
        torch.testing.assert_close(gradient, -scale * weight * inputs.detach().cos())


def test_domain_cross_entropy_weighs_domains_equally():
    source, target = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-3.0])
    probabilities = source.sigmoid(), 1 - target.sigmoid()
    expected = sum(-p.log().mean() for p in probabilities) / 2
    torch.testing.assert_close(domain_cross_entropy(source, target), expected)
    extreme = domain_cross_entropy(torch.tensor([-500.0]), torch.tensor([500.0]))
    assert float(extreme) == pytest.approx(500)


def test_schedules():
    assert [ramp(p, 'constant') for p in (0.0, 0.4, 1.0)] == [1, 1, 1]
    assert [ramp(p, 'linear', warmup=0.5) for p in (0.0, 0.25, 0.5, 0.9)] == [0, 0.5, 1, 1]
    late = [ramp(p, 'linear', warmup=0.25, begin=0.5) for p in (0.0, 0.49, 0.5, 0.625, 0.75, 1.0)]
    assert late == [0, 0, 0, 0.5, 1, 1]
    assert [ramp(p, 'constant', begin=0.5) for p in (0.0, 0.49, 0.5)] == [0, 0, 1]
    assert ramp(0.0, 'sigmoid') == 0
    assert ramp(0.1, 'sigmoid') == pytest.approx(math.tanh(0.5))  # 2 / (1 + e^-x) - 1
    assert ramp(0.1, 'sigmoid', warmup=0.1) == ramp(1.0, 'sigmoid') == pytest.approx(math.tanh(5))
    assert inv_decay(0, 0.001, 0.75) == 1
    assert inv_decay(20000, 0.001, 0.75) == pytest.approx(21**-0.75)


def test_entropy():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0]], requires_grad=True)
    found = entropy(logits)
    torch.testing.assert_close(found, torch.tensor([math.log(4), 0.0]))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()


def test_soft_neighbourhood_density_is_the_double_loop():
    scores = torch.randn(7, 4, generator=torch.Generator().manual_seed(2)).double().softmax(1)
    rows = [[value / math.sqrt(sum(v * v for v in row)) for value in row]
            for row in scores.tolist()]  # fmt: skip
    total = 0.0
    for i, row in enumerate(rows):
        weights = [
            math.exp(sum(a * b for a, b in zip(row, other, strict=True)) / 0.05)
            for j, other in enumerate(rows)
            if j != i
        ]
        shares = [weight / sum(weights) for weight in weights]
        total -= sum(share * math.log(share) for share in shares)
    for chunk in (1024, 3):
        found = soft_neighbourhood_density(scores, 0.05, chunk)
        assert float(found) == pytest.approx(total / 7, rel=1e-9)
    same = soft_neighbourhood_density(scores[:1].expand(5, 4), 0.05)
    assert float(same) == pytest.approx(math.log(4))
