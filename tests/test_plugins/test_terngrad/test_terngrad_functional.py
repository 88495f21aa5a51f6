"""The arithmetic: clip, scale, draw, pack."""

import itertools
import math

import pytest
import torch

from mmext.plugins.terngrad import functional as F
from mmext.plugins.terngrad.transport import choose, wire_bits


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(numel=200_000, seed=3, scale=0.02):
    return torch.randn(numel, generator=generator(seed)) * scale


def test_clip_by_std_against_float64():
    grad = gaussian(5000) + 0.004
    sigma = grad.double().std(correction=0)
    expected = grad.double().clamp(-2.5 * sigma, 2.5 * sigma)
    clipped = F.clip_by_std(grad, 2.5)
    torch.testing.assert_close(clipped.double(), expected, rtol=1e-5, atol=0)
    assert not torch.equal(clipped, grad)


def test_gaussian_anchors_of_clipping():
    """Closed form for c = 2.5: 1.13 % shorter and 2.75 degrees off (E[x clip(x)] is P(|x| < c))."""
    c, density = 2.5, math.exp(-(2.5**2) / 2) / math.sqrt(2 * math.pi)
    inside = math.erf(c / math.sqrt(2))
    length = math.sqrt(inside - 2 * c * density + c**2 * (1 - inside))
    grad = gaussian(1_000_000)
    clipped = F.clip_by_std(grad, 2.5)
    cosine = torch.cosine_similarity(grad.double(), clipped.double(), 0).item()
    assert clipped.norm() / grad.norm() == pytest.approx(length, abs=3e-4)
    assert length == pytest.approx(1 - 0.0112, abs=1e-4)
    assert math.degrees(math.acos(cosine)) == pytest.approx(
        math.degrees(math.acos(inside / length)), abs=0.03
    )


def test_gaussian_anchor_of_sparsity():
    """E|clip(x)| / 2.5 of a standard normal is 0.318, so 68.2 % of the codes are zero."""
    grad = gaussian(1_000_000)
    limits = F.clip_limits([grad], 2.5)
    codes = F.ternarize(grad, F.scalers([grad], limits)[0], generator(), limits[0])
    assert (codes == 0).double().mean() == pytest.approx(0.682, abs=2e-3)


@pytest.mark.parametrize('shift', [0.0, 1e4])
@pytest.mark.parametrize('scale', [1e-25, 1.0, 1e25])
def test_limits_survive_large_means_and_extreme_exponents(shift, scale):
    grad = ((gaussian(3000, scale=1.0) + shift) * scale).float()
    sigma = grad.double().std(correction=0).item()
    assert F.clip_limits([grad], 2.5).item() == pytest.approx(2.5 * sigma, rel=1e-4)


@pytest.mark.parametrize('grad', [torch.tensor([3.0]), torch.full((4,), -2.0), torch.empty(0)])
def test_single_and_equal_elements_are_not_clipped(grad):
    limits = F.clip_limits([grad], 2.5)
    assert limits.isinf().all()
    codes = F.ternarize(grad, F.scalers([grad], limits)[0], generator())
    assert torch.equal(codes.float(), grad.sign())


def test_scalers_are_the_largest_clipped_magnitudes():
    grads = [gaussian(1000), -gaussian(50).abs(), torch.zeros(7)]
    expected = [F.clip_by_std(grad, 2.5).abs().max() for grad in grads]
    torch.testing.assert_close(F.scalers(grads, F.clip_limits(grads, 2.5)), torch.stack(expected))
    unclipped = F.scalers(grads, F.clip_limits(grads, None))
    assert torch.equal(unclipped, torch.stack([grad.abs().max() for grad in grads]))


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_non_finite_gradients_give_an_infinite_scaler(bad):
    grad = gaussian(100)
    grad[17] = bad
    scale = F.scalers([grad], F.clip_limits([grad], 2.5))[0]
    assert scale == math.inf
    codes = F.ternarize(grad, scale, generator())
    assert (codes.float() * scale).isfinite().sum() == 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_draws_are_unbiased(dtype):
    """Mean of k draws within 4 sigma / sqrt(k), for every element of a grid and their sum."""
    grad = torch.linspace(-1, 1, 41).to(dtype)
    draws = 20_000
    codes = F.ternarize(grad.expand(draws, 41), 1.0, generator(1)).double()
    share = grad.double().abs()
    deviation = (share * (1 - share) / draws).sqrt()
    error = (codes.mean(0) - grad.double()).abs()
    assert (error <= 4 * deviation + F.RESOLUTION).all()
    assert codes.mean().abs() <= 4 * deviation.square().sum().sqrt() / 41
    # Nothing has the other sign, and the ends are certain.
    assert ((codes * grad.double()) >= 0).all() and (codes[:, [0, -1]].abs() == 1).all()


def test_bernoulli_rates_of_small_shares():
    """Shares around 1 / 65536 need more than the 16 bits of an element's own random number."""
    numel, calls = 2**18, 200
    for share in (2.0**-18, 3.3e-5):
        grad = torch.full((numel,), share)
        hits = sum(int(F.ternarize(grad, 1.0, generator(seed)).sum()) for seed in range(calls))
        # The elements of a call share their finer bits, so the rate of a call varies by half of
        # 1 / 65536 at most.
        variance = calls * (numel * share + (numel * 2.0**-17) ** 2)
        assert abs(hits - calls * numel * share) < 4 * math.sqrt(variance), share


def test_zero_gradients_and_scalers_give_zeros():
    assert not F.ternarize(torch.zeros(1000), 1.0, generator()).any()
    assert not F.ternarize(gaussian(1000), 0.0, generator()).any()
    assert not F.ternarize(torch.full((9,), 1e-42), 1e-42, generator()).any()


def test_limit_clips_below_a_shared_scaler():
    grad = torch.tensor([1.0, -1.0, 0.5]).repeat(40_000, 1)
    codes = F.ternarize(grad, 2.0, generator(), limit=0.5).double().mean(0)
    torch.testing.assert_close(codes, torch.tensor([0.25, -0.25, 0.25]).double(), rtol=0, atol=0.01)


def test_error_falls_as_one_over_workers_only_with_independent_draws():
    grad = gaussian(50_000)
    limits = F.clip_limits([grad], 2.5)
    scale, clipped = F.scalers([grad], limits)[0], F.clip_by_std(grad, 2.5)

    def error(seeds):
        codes = sum(F.ternarize(grad, scale, generator(s), limits[0]).float() for s in seeds)
        return (codes * scale / len(seeds) - clipped).square().mean().item()

    single = error([0])
    for workers in (2, 4, 16):
        assert error(range(workers)) == pytest.approx(single / workers, rel=0.05)
    assert error([0] * 4) == pytest.approx(single)


def test_ternary_norm_is_the_root_of_scale_times_l1():
    """E|s b|^2 = s |g|_1 (independent of the draw's code)."""
    grad = gaussian(500_000)
    scale = grad.abs().max()
    codes = F.ternarize(grad, scale, generator())
    measured = scale.double() ** 2 * codes.count_nonzero()
    assert measured == pytest.approx((scale * grad.double().abs().sum()).item(), rel=0.01)


def test_same_generator_same_codes_and_chunks_do_not_repeat():
    grad = gaussian(300_000)
    first, again = (F.ternarize(grad, 0.05, generator(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, F.ternarize(grad, 0.05, generator(5)))
    constant = F.ternarize(torch.full((4 * 2**17,), 0.5), 1.0, generator())
    halves = constant.view(4, -1)
    for one, other in itertools.combinations(halves, 2):
        assert (one == other).double().mean() == pytest.approx(0.5, abs=0.01)


def test_shape_and_out():
    grad = gaussian(24).view(2, 3, 4)
    codes = F.ternarize(grad, 0.05, generator())
    out = torch.empty(24, dtype=torch.int8)
    assert F.ternarize(grad, 0.05, generator(), out=out) is out
    assert codes.shape == grad.shape and torch.equal(codes.flatten(), out)


def test_packing_is_the_identity_for_every_length():
    for numel in range(258):
        codes = torch.randint(-1, 2, (numel,), dtype=torch.int8, generator=generator(numel))
        packed = F.pack_ternary(codes)
        assert packed.numel() == -(-numel // 5) == F.packed_bytes(numel)
        assert torch.equal(F.unpack_ternary(packed, numel), codes)


def test_base3_bytes_against_plain_arithmetic():
    codes = torch.randint(-1, 2, (23,), dtype=torch.int8, generator=generator())
    size = 5
    for index, byte in enumerate(F.pack_ternary(codes).tolist()):
        digits = [codes[k].item() + 1 if k < 23 else 1 for k in range(index, 25, size)]
        assert byte == sum(digit * 3**place for place, digit in enumerate(digits))


@pytest.mark.parametrize(
    'n_ranks', [1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 512, 16383]
)
def test_packed_levels_are_the_identity_for_every_length(n_ranks):
    for numel in (*range(34), 257):
        sums = torch.randint(-n_ranks, n_ranks + 1, (numel,), generator=generator(numel)).to(
            F.sum_dtype(n_ranks)
        )
        sums[:1], sums[-1:] = -n_ranks, n_ranks
        packed = F.pack_levels(sums, n_ranks)
        assert packed.numel() == F.levels_bytes(numel, n_ranks)
        assert torch.equal(F.unpack_levels(packed, numel, n_ranks), sums)
    bits = math.ceil(math.log2(2 * n_ranks + 1))
    assert F.level_bits(n_ranks) == bits
    assert F.levels_bytes(8000, n_ranks) == 1000 * bits


def test_wire_bits():
    assert [wire_bits('float32', n) for n in (2, 4, 8)] == [32, 48, 56]
    assert [wire_bits('bfloat16', n) for n in (2, 4, 8)] == [16, 24, 28]
    assert [wire_bits('all_gather', n) for n in (2, 4, 8)] == pytest.approx([1.6, 4.8, 11.2])
    assert [wire_bits('two_shot', n) for n in (4, 8)] == pytest.approx([4.2, 5.775])
    assert wire_bits('ternary', 2) == wire_bits('all_gather', 2)
    assert wire_bits('ternary', 4) == wire_bits('two_shot', 4)


def test_the_way_that_sends_least_is_taken():
    assert [choose(n) for n in (1, 2, 3, 4, 64)] == ['all_gather'] * 2 + ['two_shot'] * 3
    assert choose(8, backend='other') == 'all_gather'
    for n in range(3, 65):
        assert wire_bits('two_shot', n) <= wire_bits('all_gather', n)


@pytest.mark.parametrize(
    'call, error, message',
    [
        (lambda: F.clip_by_std(torch.ones(3), 0), ValueError, 'clip_factor=0.*above 0'),
        (lambda: F.unpack_ternary(torch.ones(3, dtype=torch.uint8), 9), ValueError, '9 codes'),
        (lambda: F.unpack_levels(torch.ones(3, dtype=torch.uint8), 9, 4), ValueError, '9 levels'),
        (
            lambda: F.pack_levels(torch.ones(3, dtype=torch.int16), 16384),
            ValueError,
            '16384.*16383',
        ),
        (
            lambda: F.ternarize(torch.ones(3).to_sparse(), 1.0, generator()),
            TypeError,
            'sparse=False',
        ),
        (
            lambda: F.ternarize(torch.ones(3, dtype=torch.complex64), 1.0, generator()),
            TypeError,
            'complex',
        ),
        (lambda: wire_bits('pigeon', 2), ValueError, 'pigeon'),
        (lambda: wire_bits('two_shot', 0), ValueError, 'n_ranks=0'),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
