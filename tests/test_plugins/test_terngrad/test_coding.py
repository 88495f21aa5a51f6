"""Entropy coding and unbiased rounding of what ranks send."""

import math

import pytest
import torch
import torch.distributed as dist

from mmext.plugins.terngrad import coding
from mmext.plugins.terngrad import functional as F
from mmext.plugins.terngrad.transport import backend_of


def sparse_codes(numel, zeros, seed=0):
    """Ternary codes with this share of zeros."""
    draws = torch.rand(numel, generator=torch.Generator().manual_seed(seed))
    return (draws > zeros).to(torch.int8) - 2 * (draws > (1 + zeros) / 2).to(torch.int8)


def entropy(share):
    """Bits of a code whose two signs are equally likely."""
    return -share * math.log2(share) - (1 - share) * math.log2((1 - share) / 2)


@pytest.mark.parametrize(('zeros', 'most'), [(0.8, 1.03), (0.87, 1.1), (0.95, 1.5)])
def test_codes_take_nearly_their_entropy(zeros, most):
    codes = sparse_codes(1_000_000, zeros)
    coded = coding.shortened(codes)
    bits = 8 * coded.numel() / codes.numel()
    assert entropy(zeros) < bits < most * entropy(zeros)
    assert torch.equal(coding.restored(coded, codes.numel()), codes)


def test_rows_of_their_own_density_take_less_than_the_entropy_of_all():
    """As in fully connected layers, where a unit that sleeps has a row of zeros."""
    rows = [sparse_codes(2000, 0.5 if row % 8 == 0 else 0.99, row) for row in range(256)]
    codes = torch.cat(rows)
    bits = 8 * coding.shortened(codes).numel() / codes.numel()
    zeros = (codes == 0).double().mean().item()
    assert bits < 0.85 * entropy(zeros)


@pytest.mark.parametrize('n_ranks', [2, 3, 4, 7, 8, 127, 128, 500])
def test_sums_take_nearly_their_entropy(n_ranks):
    """Also where a level has 3 bits, whose fields alone would hide its rate, or more than 8."""
    numel, workers = 300_000, min(n_ranks, 8)
    total = sum(sparse_codes(numel, 0.85, seed).to(torch.int16) for seed in range(workers))
    sums = total.to(F.sum_dtype(n_ranks))
    shares = torch.unique(sums, return_counts=True)[1].double() / numel
    coded = coding.shortened_levels(sums, n_ranks)
    assert 8 * coded.numel() / numel < -1.1 * (shares * shares.log2()).sum().item()
    assert torch.equal(coding.restored_levels(coded, numel, n_ranks), sums)


@pytest.mark.parametrize('offset', range(5))
def test_any_part_of_the_codes_can_be_coded(offset):
    """Wherever it begins and ends in memory."""
    codes = sparse_codes(20_005, 0.9)[offset : 20_000 + 2 * offset]
    assert torch.equal(coding.restored(coding.shortened(codes), codes.numel()), codes)
    for n_ranks in (3, 8):
        payload = coding.shortened_levels(codes, n_ranks)
        assert torch.equal(coding.restored_levels(payload, codes.numel(), n_ranks), codes)


@pytest.mark.parametrize('numel', [0, 1, 2, 3, 7, 5003])
def test_what_would_become_longer_stays_as_it_is(numel):
    codes = torch.randint(-1, 2, (numel,), generator=torch.Generator().manual_seed(1))
    codes = codes.to(torch.int8)
    payload = coding.shortened(codes)
    assert torch.equal(payload, F.pack_ternary(codes))
    assert torch.equal(coding.restored(payload, numel), codes)
    for n_ranks in (3, 7):
        levels = torch.randint(-n_ranks, n_ranks + 1, (numel,)).to(torch.int8)
        payload = coding.shortened_levels(levels, n_ranks)
        assert payload.numel() <= F.levels_bytes(numel, n_ranks)
        assert torch.equal(coding.restored_levels(payload, numel, n_ranks), levels)


def test_without_zstandard_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(coding, '_zstandard', None)
    monkeypatch.setattr(coding, '_thread', type('Thread', (), {})())
    assert not coding.available()
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mmext\[terngrad\]"'):
        coding.shortened(torch.zeros(3, dtype=torch.int8))


def test_rounding_is_unbiased_with_the_stated_variance():
    generator, n_ranks, draws = torch.Generator().manual_seed(0), 64, 4000
    sums = torch.arange(-n_ranks, n_ranks + 1).to(torch.int8)
    found = []
    for _ in range(draws):
        levels, step = F.requantize(sums, generator)
        found.append(levels * step)
    assert step == pytest.approx(sums.double().square().mean().sqrt().item() / 2)
    values, exact = torch.stack(found).double(), sums.double()
    fraction = (exact / step.double()) % 1
    variance = step.double() ** 2 * fraction * (1 - fraction)
    deviation = (variance / draws).sqrt()
    assert ((values.mean(0) - exact).abs() <= 4.5 * deviation + 1e-4).all()
    ratio = (values.var(0) / variance)[variance > 10]
    assert (ratio - 1).abs().max() < 0.25 and (ratio.mean() - 1).abs() < 0.03
    assert (values - exact).square().mean() < exact.square().mean() / 16


def test_bits_of_rounded_sums_stop_growing():
    """Workers whose codes are independent; exact sums gain a bit with four times as many."""
    bits, exact = {}, {}
    for n_ranks in (64, 256, 1024):
        draws = torch.Generator().manual_seed(n_ranks)
        # A sum of many codes: 15 % are not zero.
        spread = (0.15 * n_ranks) ** 0.5
        sums = (torch.randn(200_000, generator=draws) * spread).round()
        sums = sums.to(F.sum_dtype(n_ranks))
        levels, step = F.requantize(sums, draws)
        most = int(levels.abs().max())
        assert step == pytest.approx(spread / 2, rel=0.02)
        payload = coding.shortened_levels(levels.to(F.sum_dtype(most)), most)
        bits[n_ranks] = 8 * payload.numel() / sums.numel()
        exact[n_ranks] = 8 * coding.shortened_levels(sums, n_ranks).numel() / sums.numel()
    assert max(bits.values()) < min(bits.values()) + 0.1 and bits[1024] < 3.3
    assert exact[64] + 1.8 < exact[1024] and bits[1024] < exact[1024] - 1.8


@pytest.mark.parametrize('sums', [[-2, 2, 0, 1], [0, 0, 0], [], [7] + [0] * 20])
def test_small_sums_stay_exact(sums):
    sums = torch.tensor(sums, dtype=torch.int8)
    levels, step = F.requantize(sums, torch.Generator().manual_seed(0))
    assert step == 1 and torch.equal(levels, sums)


def test_a_group_without_a_backend_name_is_asked_by_device():
    """`init_process_group()` without one: torch then calls the backend 'undefined'."""
    dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert dist.get_backend() == 'undefined'
        assert backend_of(None, torch.device('cpu')) == 'gloo'
        assert backend_of(None, torch.device('cuda')) in ('nccl', 'undefined')
    finally:
        dist.destroy_process_group()
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert backend_of(None, torch.device('cpu')) == 'gloo'
    finally:
        dist.destroy_process_group()
