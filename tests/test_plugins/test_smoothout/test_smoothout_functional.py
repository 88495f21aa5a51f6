"""Noise, schedules and sharpness against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmext.plugins.smoothout.functional import (
    ADAPTS,
    expected_sharpness,
    kept,
    keskar_sharpness,
    noise_like,
    schedule,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_uniform_noise_has_the_distribution_of_the_paper():
    noise = noise_like(torch.zeros(500, 401), 0.3, generator=gen()).double().flatten()
    count = noise.numel()
    assert noise.abs().max() < 0.3 and noise.abs().max() > 0.2999
    # Moments of U(-a, a) within four standard errors.
    for power, moment in ((1, 0), (2, 1 / 3), (3, 0), (4, 1 / 5)):
        spread = math.sqrt((1 / (2 * power + 1) - moment**2) / count)
        assert abs((noise / 0.3).pow(power).mean().item() - moment) < 4 * spread
    histogram = torch.histc(noise, 50, -0.3, 0.3)
    chi2 = ((histogram - count / 50) ** 2 / (count / 50)).sum()
    assert chi2 < 49 + 4 * math.sqrt(98)
    # Neighbours come from one 64-bit draw: they must be independent all the same.
    for lag in (1, 2, 3, 4):
        correlation = (noise[lag:] * noise[:-lag]).mean() / (0.3**2 / 3)
        assert abs(correlation) < 4 / math.sqrt(count)


def test_normal_noise_has_the_distribution_asked_for():
    noise = noise_like(torch.zeros(100_000), 0.5, distribution='normal', generator=gen())
    assert abs(noise.std().item() - 0.5) < 0.005 and abs(noise.mean().item()) < 0.007
    assert noise.abs().max() > 1.5


@pytest.mark.parametrize('distribution', ['uniform', 'normal'])
@pytest.mark.parametrize('shape', [(6, 4, 3, 3), (5, 7), (1, 8), (3, 1)])
def test_filter_noise_has_the_relative_norm_of_every_filter(distribution, shape):
    param = torch.randn(shape, dtype=torch.float64, generator=gen(1))
    if len(param) > 1:
        param[0] = 0
    noise = noise_like(param, 0.2, 'filter', distribution, gen())
    wanted, norms = param.flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, 0.2 * wanted, rtol=1e-12, atol=0)
    assert not torch.equal(noise, noise_like(param, 0.2, 'filter', distribution, gen(7)))


def test_filters_of_a_vector_are_its_elements():
    param = torch.randn(1000, dtype=torch.float64, generator=gen(1))
    noise = noise_like(param, 0.2, 'filter', generator=gen())
    torch.testing.assert_close(noise.abs(), 0.2 * param.abs())
    assert 400 < (noise * param > 0).sum() < 600


def test_weight_noise_scales_with_each_element():
    param = torch.tensor([1e-3, -1.0, 50.0, 0.0], dtype=torch.float64).repeat(5000, 1)
    ratio = noise_like(param, 0.1, 'weight', generator=gen()) / param.abs()
    assert ratio[:, 3].isnan().all()
    assert (ratio[:, :3].abs() < 0.1).all()
    for column in ratio[:, :3].T:
        assert abs(column.mean()) < 0.002 and abs(column.std() - 0.1 / 3**0.5) < 0.001


@pytest.mark.parametrize('adapt', ADAPTS)
@pytest.mark.parametrize('shape', [(), (1,), (0,), (0, 3), (2, 0), (65537,), (3, 5)])
def test_every_shape_works(adapt, shape):
    param = torch.ones(shape)
    noise = noise_like(param, 0.1, adapt, generator=gen())
    assert noise.shape == param.shape and noise.isfinite().all()
    assert (noise != 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('adapt', ADAPTS)
def test_half_precision_is_drawn_in_single(dtype, adapt):
    param = 300 * torch.ones(4, 4096, dtype=dtype)  # the squares overflow fp16
    noise = noise_like(param, 0.1, adapt, generator=gen())
    single = noise_like(param.float(), 0.1, adapt, generator=gen())
    assert noise.dtype == dtype and torch.equal(noise, single.to(dtype))


def test_noise_does_not_depend_on_the_memory_layout():
    param = torch.randn(4, 3, 5, 5)
    last = param.to(memory_format=torch.channels_last)
    for adapt in ADAPTS:
        plain, other = (noise_like(p, 0.1, adapt, generator=gen()) for p in (param, last))
        torch.testing.assert_close(plain, other, rtol=1e-6, atol=0)
        assert other.is_contiguous(memory_format=torch.channels_last)


def test_unknown_names():
    with pytest.raises(ValueError, match="adapt='layer'"):
        noise_like(torch.ones(2), 1, 'layer')
    with pytest.raises(ValueError, match="distribution='cauchy'"):
        noise_like(torch.ones(2), 1, distribution='cauchy')
    with pytest.raises(ValueError, match="schedule='cosine'"):
        schedule('cosine', 0, 1)


def test_schedules_by_hand():
    assert schedule('constant', 7, 10) == 1
    assert schedule('anneal', 0, 10) == 1
    assert schedule('anneal', 99, 100) == pytest.approx(math.sqrt(1 / 100**0.55))
    assert schedule('tanh', 50, 100) == 0.5
    assert schedule('tanh', 0, 100) == pytest.approx((math.tanh(-5) + 1) / 2)
    assert schedule('tanh', 100, 100) > 0.9999


def test_kept_restores_bits_after_an_exception():
    params = [torch.tensor([0.1, -0.0, 1e-40]), torch.tensor([3.0])]
    before = [p.clone() for p in params]
    with pytest.raises(KeyError), kept(params):
        params[0].add_(1)
        raise KeyError
    assert all(map(torch.equal, params, before))
    assert torch.signbit(params[0][1])


def test_expected_sharpness_of_a_quadratic():
    """E L(w + n) - L(w) = a^2 / 3 * trace / 2 for U(-a, a), whatever w is."""
    curvature = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([3e-3, -2e-3, 1e-4], dtype=torch.float64))
    before = w.detach().clone()

    def loss():
        return 0.5 * (curvature * w**2).sum()

    measured = expected_sharpness(loss, [w], 0.01, k=1500, generator=gen())
    assert measured == pytest.approx(0.01**2 / 6 * 111, rel=0.1)
    assert torch.equal(w, before) and w.grad is None
    with pytest.raises(ValueError, match='k=0'):
        expected_sharpness(loss, [w], 0.1, k=0)


def test_draws_of_the_expected_sharpness_all_start_from_the_clean_weights():
    """Relative noise would grow, were it scaled by the weights of the draw before."""
    w = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    measured = expected_sharpness(
        lambda: 0.5 * (w**2).sum(), [w], 1.0, k=4000, adapt='weight', generator=gen()
    )
    assert measured == pytest.approx(5 / 6, rel=0.15)  # 4/3 of it with growing noise


def test_keskar_sharpness_of_a_quadratic_is_that_of_the_best_corner():
    curvature = torch.tensor([[1.0, 10.0], [100.0, 0.0]], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([[0.3, -0.2], [2.0, 5.0]], dtype=torch.float64))
    unused = nn.Parameter(torch.ones(2))
    before = w.detach().clone()

    def loss():
        return 0.5 * (curvature * w**2).sum()

    eps = 1e-2
    corner = before + eps * (before.abs() + 1) * before.sign()
    base, top = (0.5 * (curvature * v**2).sum().item() for v in (before, corner))
    measured = keskar_sharpness(loss, [w, unused], eps)
    assert measured == pytest.approx(100 * (top - base) / (1 + base), rel=1e-9)
    assert torch.equal(w, before) and w.grad is None


def test_keskar_sharpness_is_zero_on_a_hilltop():
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    assert keskar_sharpness(lambda: -(w**2).sum(), [w]) == 0


def test_keskar_sharpness_grows_with_curvature_and_restores_on_errors():
    w = nn.Parameter(torch.full((4,), 0.01))
    flat, sharp = (keskar_sharpness(lambda k=k: k * (w**2).sum(), [w]) for k in (1.0, 50.0))
    assert sharp > 10 * flat > 0
    calls = iter(range(3))

    def fails():
        if next(calls) == 2:
            raise OSError
        return (w**2).sum()

    with pytest.raises(OSError):
        keskar_sharpness(fails, [w])
    assert np.array_equal(w.detach().numpy(), np.full(4, 0.01, np.float32))
    with pytest.raises(ValueError, match='epsilon=0'):
        keskar_sharpness(fails, [w], epsilon=0)
