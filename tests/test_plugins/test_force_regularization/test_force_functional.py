"""The force, spectra and factors against their definitions."""

import pytest
import torch
from force_runs import pairwise_force

from mmext.plugins.force_regularization import functional as F

SHAPES = [(7, 3, 3, 3), (5, 40), (12, 2, 1, 1), (6, 4, 5)]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('kind', F.FORCE_KINDS)
@pytest.mark.parametrize('shape', SHAPES)
def test_force_is_the_pairwise_loop(kind, shape):
    weight = randn(*shape) * torch.linspace(0.1, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    expected = pairwise_force(weight, kind)
    result = F.force(weight, kind)
    assert result.shape == weight.shape
    assert (result - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize('kind', F.FORCE_KINDS)
def test_short_filters_neither_pull_nor_move(kind):
    weight = randn(6, 5)
    weight[2] *= 1e-5 / weight[2].norm()
    weight[4] = 0
    result = F.force(weight, kind)
    assert not result[[2, 4]].any()
    torch.testing.assert_close(result, pairwise_force(weight, kind), rtol=0, atol=1e-12)
    rest = [0, 1, 3, 5]
    torch.testing.assert_close(result[rest], F.force(weight[rest], kind), rtol=0, atol=1e-12)


def test_close_pairs_are_skipped_for_l1():
    weight = randn(4, 9)
    weight[1] = 3 * weight[0] + 1e-5 * randn(9, seed=1)  # parallel but for 1e-5
    result = F.force(weight, 'l1')
    torch.testing.assert_close(result, pairwise_force(weight, 'l1'), rtol=0, atol=1e-10)
    assert (result - pairwise_force(weight * 1.0, 'l2')).abs().max() > 0.1


def test_l1_is_accurate_in_float32_for_filters_it_has_drawn_together():
    weight = (randn(1, 30) + 5e-4 * randn(8, 30)).float()
    expected = pairwise_force(weight, 'l1')
    error = (F.force(weight, 'l1').double() - expected).norm() / expected.norm()
    assert error < 1e-3


@pytest.mark.parametrize('kind', F.FORCE_KINDS)
def test_force_keeps_norms_to_first_order_and_draws_together(kind):
    weight = randn(8, 20)
    pull = F.force(weight, kind)
    assert (weight * pull).sum(1).abs().max() < 1e-12
    for step in (1e-3, 5e-4):
        moved = weight + step * pull
        growth = (moved.norm(dim=1) / weight.norm(dim=1) - 1).abs().max()
        assert 0 < growth < (step * pull.norm(dim=1) / weight.norm(dim=1)).max() ** 2
    ranks = []
    for _ in range(60):
        ranks.append(F.rank_at(F.spectrum(weight), 0.95))
        weight = weight + 0.02 * F.force(weight, kind)
    assert ranks[0] == 7 and ranks[-1] == 1


@pytest.mark.parametrize('kind', F.FORCE_KINDS)
def test_force_is_no_gradient_of_the_distance_penalty_but_proportional_to_it(kind):
    weight = randn(6, 10).requires_grad_()
    units = torch.nn.functional.normalize(weight, dim=1)
    distances = (units[:, None] - units[None] + 1e-300).norm(dim=2)
    penalty = distances.sum() if kind == 'l1' else distances.square().sum() / 2
    (slope,) = torch.autograd.grad(penalty, weight)
    lengths = weight.detach().square().sum(1, keepdim=True)
    torch.testing.assert_close(F.force(weight.detach(), kind), -lengths / 2 * slope)


def test_groups_do_not_pull_each_other():
    weight = randn(6, 2, 3, 3)
    halves = torch.cat([F.force(weight[:3]), F.force(weight[3:])])
    torch.testing.assert_close(F.force(weight, groups=2), halves)
    assert (F.force(weight) - halves).abs().max() > 0.1


def test_half_precision_keeps_its_dtype():
    weight = randn(4, 9)
    result = F.force(weight.bfloat16())
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), F.force(weight), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ('call', 'named'),
    [
        (lambda: F.force(torch.ones(3, 3), 'l3'), "kind='l3'"),
        (lambda: F.force(torch.ones(3)), r'\(3,\)'),
        (lambda: F.force(torch.ones(3, 3), groups=2), 'groups=2'),
        (lambda: F.rank_at(torch.ones(3), 1.5), 'energy=1.5'),
        (lambda: F.factorize(torch.ones(3, 4), 4), 'rank=4'),
        (lambda: F.factorize(torch.ones(3, 4), 1, 'cp'), "method='cp'"),
    ],
)
def test_mistakes_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_rank_at_energy_is_the_least_that_suffices():
    values = torch.tensor([6.0, 3.0, 0.8, 0.2], dtype=torch.float64)
    assert [F.rank_at(values, e) for e in (0.5, 0.6, 0.61, 0.9, 0.98, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert F.rank_at(torch.stack([values, values.flip(0).sort(descending=True)[0]]), 0.9) == 2
    assert F.rank_at(torch.zeros(3), 0.9) == 0
    exact = randn(9, 4) @ randn(4, 30, seed=1)
    assert F.rank_at(F.spectrum(exact), 1.0) == 4
    torch.testing.assert_close(F.spectrum(exact)[:4], torch.linalg.svdvals(exact)[:4] ** 2)


def test_published_speedups_of_alexnet():
    """Theoretical speed-ups of the paper's Table 4; conv4 and conv5 have two groups."""
    assert F.speedup(384, 256, 3, 184) == pytest.approx(1.79, abs=0.005)
    assert F.speedup(384, 256, 3, 124) == pytest.approx(2.65, abs=0.005)
    assert F.speedup(192, 192, 3, 201 // 2) == pytest.approx(1.72, abs=0.01)
    assert F.speedup(192, 192, 3, 106 // 2) == pytest.approx(3.26, abs=0.005)
    assert F.break_even_rank(64, 9 * 64) == pytest.approx(57.6)


@pytest.mark.parametrize('shape', [(6, 20), (20, 6)])
@pytest.mark.parametrize('method', ['pca', 'svd', 'spatial'])
def test_factors_are_the_best_of_their_rank(shape, method):
    matrix = randn(*shape)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    for rank in (1, 3, 6):
        left, right = F.factorize(matrix, rank, method)
        assert left.shape == (shape[0], rank) and right.shape == (rank, shape[1])
        torch.testing.assert_close(left @ right, u[:, :rank] * s[:rank] @ v[:rank])
        lengths = torch.ones(rank).double() if method == 'pca' else s[:rank].sqrt()
        torch.testing.assert_close(left.norm(dim=0), lengths)
        torch.testing.assert_close(right.norm(dim=1), s[:rank] / lengths)


def test_kmeans_factors_repeat_centroids():
    rows = randn(3, 8)
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    left, right = F.factorize(rows[labels], 3, 'kmeans')
    torch.testing.assert_close(left @ right, rows[labels])
    assert set(left.flatten().tolist()) == {0.0, 1.0} and (left.sum(1) == 1).all()


@pytest.mark.parametrize('shape', [(6, 20), (20, 6)])
def test_truncation_and_nuclear_subgradient_against_svd(shape):
    matrix = randn(*shape)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    rank = F.rank_at(s.square(), 0.8)
    assert 1 < rank < 6
    torch.testing.assert_close(F.truncate(matrix, 0.8), u[:, :rank] * s[:rank] @ v[:rank])
    torch.testing.assert_close(F.nuclear_subgradient(matrix, 0.8), u[:, :rank] @ v[:rank])
    whole = matrix.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.linalg.svdvals(whole).sum(), whole)
    torch.testing.assert_close(F.nuclear_subgradient(matrix), slope)
    grouped = torch.stack([matrix, 2 * matrix.flip(0)]).flatten(0, 1)
    torch.testing.assert_close(F.nuclear_subgradient(grouped, groups=2)[: len(matrix)], slope)


def test_nuclear_subgradient_of_a_rank_deficient_matrix_is_finite_and_bounded():
    matrix = randn(8, 2) @ randn(2, 12, seed=1)
    slope = F.nuclear_subgradient(matrix)
    torch.testing.assert_close(
        torch.linalg.svdvals(slope)[:3], torch.tensor([1.0, 1.0, 0.0]).double(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize('groups', [1, 2])
def test_shrinking_is_the_proximal_operator_per_component(groups):
    basis, mix = randn(groups * 3, 4, 3, 3), randn(8, 3, 1, 1, seed=1)
    basis[1] *= 1e-3
    mix.reshape(groups, -1, 3)[0, :, 1] *= 1e-3
    new_basis, new_mix = F.shrink_groups(basis, mix, 0.5)
    for group in range(groups):
        for k in range(3):
            rows = slice(group * 8 // groups, (group + 1) * 8 // groups)
            old = torch.cat([basis[group * 3 + k].flatten(), mix[rows, k].flatten()])
            new = torch.cat([new_basis[group * 3 + k].flatten(), new_mix[rows, k].flatten()])
            torch.testing.assert_close(new, old * max(0, 1 - 0.5 / old.norm()))
    assert not new_basis[1].any()
