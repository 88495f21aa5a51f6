"""The certificate: published values, exact intervals, and how often it is wrong."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm

from mmext.plugins.randomized_smoothing.functional import (
    ABSTAIN,
    certify,
    choose_split,
    predict,
    radius_within_reach,
    sampling_stages,
    two_sided_radius,
)

N = 100_000


def counts(top, rival, n=N, classes=10):
    """n samples of which class 0 has the share ``top``, class 1 ``rival``, the others the rest."""
    rest = (1 - top - rival) / (classes - 2)
    found = np.floor(n * np.array([top, rival] + [rest] * (classes - 2)) + 1e-6).astype(int)
    found[2] += n - found.sum()
    return found


@pytest.mark.parametrize(
    ('top', 'rival', 't_certify', 'cohen'),
    [
        (0.99, 0.003, 2.482, 2.290),
        (0.7, 0.15, 0.764, 0.512),
        (0.6, 0.2, 0.532, 0.241),
        (0.45, 0.2, 0.343, None),
        (1, 0, 3.811, 3.812),
    ],
)
def test_radii_of_the_table(top, rival, t_certify, cohen):
    """sigma 1, n 1e5, alpha 1e-3, K 10; the last row saturates, so its split is .99/.01."""
    select, fresh = counts(top, rival, 1000), counts(top, rival)
    assert choose_split(select, N, 1e-3) == (0.99 if top == 1 else 0.5)
    prediction, radius = certify(select, fresh, 1.0, 1e-3, 't_certify')
    assert prediction == 0 and round(float(radius), 3) == t_certify
    prediction, radius = certify(select, fresh, 1.0, 1e-3, 'cohen')
    if cohen is None:
        assert prediction == ABSTAIN and radius == 0
    else:
        assert prediction == 0 and radius == pytest.approx(cohen, abs=6e-4)


def test_saturated_counts_need_the_uneven_split():
    even = two_sided_radius(counts(1, 0), 0, 1.0, 5e-4, 5e-4)
    assert round(float(even), 3) == 3.788
    assert certify(counts(1, 0, 100), counts(1, 0), 1.0)[1] > even + 0.02


@pytest.mark.parametrize('k', [0, 1, 37, 99, 100])
def test_bounds_are_exact_binomial_intervals(k):
    """Against scipy's own Clopper-Pearson interval, two-sided at twice the level."""
    n, alpha = 100, 0.01
    interval = binomtest(k, n).proportion_ci(1 - 2 * alpha, method='exact')
    _, radius = certify([60, 40], [k, n - k], 1.0, alpha, 'cohen')
    low = norm.cdf(radius) if radius > 0 else None
    assert low is None and interval.low < 0.5 or low == pytest.approx(interval.low, rel=1e-9)
    # Class 0 has never won, so its lower bound is 0 and only pB_up is left of the radius.
    reached = two_sided_radius([k, n - k, 0], 1, 1.0, 1e-9, 2 * alpha)
    top = binomtest(n - k, n).proportion_ci(1 - 2e-9, method='exact').low
    rest = min(interval.high, 1 - top)
    assert reached == pytest.approx((norm.ppf(top) - norm.ppf(rest)) / 2, rel=1e-7)


@pytest.mark.parametrize('classes', [3, 10, 1000])
def test_never_far_below_cohen_and_above_it_where_there_is_a_gap(classes):
    """All (pA, pB) of a grid; selection samples fall as the probabilities do."""
    tops = np.r_[np.linspace(0.1, 0.95, 18), 0.97, 0.98, 0.99, 0.995, 0.999, 0.9999, 1]
    pairs = [(top, share * (1 - top)) for top in tops for share in np.linspace(0, 1, 11)]
    pairs = [
        (top, rival)
        for top, rival in pairs
        if top >= rival and rival >= (1 - top - rival) / (classes - 2)
    ]
    select = np.stack([counts(*pair, 1000, classes) for pair in pairs])
    fresh = np.stack([counts(*pair, N, classes) for pair in pairs])
    _, ours = certify(select, fresh, 1.0, 1e-3, 't_certify')
    _, cohen = certify(select, fresh, 1.0, 1e-3, 'cohen')
    assert (ours > cohen - 0.03).all()
    gap = np.array([1 - top - rival > 0.02 for top, rival in pairs])
    assert (ours[gap] > cohen[gap])[ours[gap] > 0].all() and gap.sum() > 20


def simulate(p, n0, n, alpha, runs, seed=0):
    """Violation rate and mean radius of each way to certify one image, over ``runs`` drawings.

    A violation is a radius above the true one of the predicted class (negative for a wrong class).
    """
    rng = np.random.default_rng(seed)
    p = np.asarray(p) / np.sum(p)
    drawn = np.hstack([rng.multinomial(n0, p, runs), rng.multinomial(n, p, runs)])
    # Equal drawings have equal certificates: count them instead of computing them again.
    drawn, times = np.unique(drawn, axis=0, return_counts=True)
    select, fresh = np.hsplit(drawn, 2)
    rival = np.array([np.delete(p, c).max() for c in range(len(p))])
    true = (norm.ppf(p) - norm.ppf(rival)) / 2
    rates, means = {}, {}
    for name in ('cohen', 't_certify', 'after', 'after, same samples'):
        if name in ('cohen', 't_certify'):
            top, radius = certify(select, fresh, 1.0, alpha, name)
        else:
            # Tempting: the best of many splits, or even the class, once the counts are known.
            top = (select if name == 'after' else fresh).argmax(1)
            shares = np.r_[0.001, np.linspace(0.02, 0.98, 13), 0.999]
            radius = np.max([two_sided_radius(fresh, top, 1.0, alpha * s, alpha * (1 - s))
                             for s in shares], axis=0)  # fmt: skip
            radius = np.maximum(radius, 0)
        wrong = (radius > 0) & (radius > true[top])
        rates[name], means[name] = (np.average(part, weights=times) for part in (wrong, radius))
    return rates, means


def test_coverage_and_what_looking_first_costs():
    """20,000 multinomials; alpha 0.05, so that the rates can be told from 0."""
    alpha, runs = 0.05, 20_000
    slack = 3 * np.sqrt(alpha * (1 - alpha) / runs)
    for p in ([0.6, 0.4], [0.5, 0.3, 0.2], [0.5, 0.5]):
        rates, means = simulate(p, 20, 200, alpha, runs)
        assert rates['cohen'] <= alpha + slack and rates['t_certify'] <= alpha + slack
        if p == [0.6, 0.4]:
            # The bound is used up: a certificate that is never wrong would prove nothing here.
            assert rates['cohen'] > 0.5 * alpha
        if p == [0.5, 0.5]:
            # Twice the level: each class has its chance to look like the top one.
            assert rates['after, same samples'] > 1.5 * alpha
        # The sound choice leaves little to gain by looking first.
        assert means['after'] <= means['t_certify'] + 0.006


def test_the_split_never_depends_on_the_fresh_counts():
    select = counts(0.7, 0.15, 100)
    for fresh in (counts(0.7, 0.15), counts(1, 0), counts(0.5, 0.5)):
        share = choose_split(select, N, 1e-3)
        expected = two_sided_radius(fresh, 0, 1.0, 1e-3 * share, 1e-3 * (1 - share))
        assert certify(select, fresh, 1.0)[1] == max(expected, 0)


def test_the_class_comes_from_the_selection_samples():
    select, fresh = [60, 40, 0], [100, 900, 0]
    for method in ('cohen', 't_certify'):
        assert certify(select, fresh, 1.0, method=method) == (ABSTAIN, 0.0)


def test_every_other_class_is_bounded():
    """A rival that the selection samples never saw counts as much as the one they saw."""
    first = certify([80, 20, 0], [700, 200, 100], 1.0)[1]
    second = certify([80, 20, 0], [700, 100, 200], 1.0)[1]
    assert first == second > 0


def test_radius_scales_with_sigma_and_batches_equal_single_images():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(6, 0.3), 20)
    select, fresh = (np.stack([rng.multinomial(n, q) for q in p]) for n in (50, 2000))
    for method in ('cohen', 't_certify'):
        prediction, radius = certify(select, fresh, 0.5, 0.01, method)
        assert np.allclose(2 * radius, certify(select, fresh, 1.0, 0.01, method)[1])
        for i in range(20):
            alone = certify(torch.tensor(select[i]), torch.tensor(fresh[i]), 0.5, 0.01, method)
            assert alone == (prediction[i], radius[i])


def test_predict_is_the_binomial_test():
    rng = np.random.default_rng(1)
    seen = rng.multinomial(60, [0.45, 0.35, 0.2], 60)
    found = predict(seen, 0.05)
    for row, label in zip(seen, found, strict=True):
        second, first = np.sort(row)[-2:]
        p_value = binomtest(int(first), int(first + second)).pvalue
        assert label == (row.argmax() if p_value <= 0.05 else ABSTAIN)
    assert 0 < (found == ABSTAIN).mean() < 1


def test_looks_spend_alpha_once():
    stages = sampling_stages(100_000, 1e-3)
    assert [size for size, _ in stages] == [100, 1000, 10_000, 100_000]
    assert sum(level for _, level in stages) == pytest.approx(1e-3)
    assert sampling_stages(500, 0.01) == [(500, 0.01)]


def test_reach_is_above_the_radius_and_falls_below_a_hopeless_target():
    few, many = counts(0.7, 0.15, 1000), counts(0.7, 0.15, 100_000)
    for method in ('cohen', 't_certify'):
        for seen in (few, many):
            reach = radius_within_reach(seen, 0, 1.0, 1e-3, method)
            assert reach > certify(seen, seen, 1.0, 1e-3, method)[1]
        assert radius_within_reach(many, 0, 1.0, 1e-3, method) < 0.9
    assert radius_within_reach([10, 0], 0, 1.0, 1e-3) == np.inf


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(sigma=0.0), 'sigma=0.0'),
        (dict(alpha=1.0), 'alpha=1.0'),
        (dict(method='post hoc'), "method='post hoc'"),
        (dict(counts=[0.7, 0.3]), 'counts, not probabilities'),
        (dict(counts=[5, -1]), 'whole numbers'),
        (dict(counts=[5, 1, 1]), 'must agree'),
        (dict(counts_select=[0, 0]), 'at least one sample'),
        (dict(counts=[7]), 'K >= 2'),
    ],
)
def test_wrong_arguments(change, message):
    given = {**dict(counts_select=[8, 2], counts=[80, 20], sigma=0.5, alpha=0.001), **change}
    with pytest.raises(ValueError, match=message):
        certify(**given)
