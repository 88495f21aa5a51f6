"""APGD, Square, FMN and their sequence on linear models, and gradients that mislead."""

import itertools
import json

import pytest
import torch
from torch import nn

from mmext.attacks.auto_pgd import apgd, checkpoints, dlr_loss, dlr_targeted_loss
from mmext.attacks.gradient_attacks import norm_of, pgd
from mmext.attacks.leaderboard import write_leaderboard
from mmext.attacks.minimum_norm import fmn
from mmext.attacks.square import share_of_pixels, square
from mmext.attacks.standard import PARTS, check_gradients, robustness_warnings, standard
from mmext.attacks.suite import attack_batch, sample_generators

NORMS = pytest.mark.parametrize('norm', ['linf', 'l2'])


@pytest.fixture(scope='module')
def linear():
    """Five classes on images of 3 x 6 x 6 pixels."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5)).requires_grad_(False)


@pytest.fixture(scope='module')
def images():
    return 0.45 + 0.1 * torch.rand(24, 3, 6, 6, generator=torch.Generator().manual_seed(2))


def radii(linear, images, norm):
    """Distance of each image from the nearest other class: margin over the dual norm."""
    logits, weight = linear(images), linear[1].weight
    y = logits.argmax(1)
    found = []
    for row, own in zip(logits, y, strict=True):
        others = [c for c in range(5) if c != own]
        dual = [(weight[own] - weight[c]).norm(1 if norm == 'linf' else 2) for c in others]
        found.append(min((row[own] - row[c]) / d for c, d in zip(others, dual, strict=True)))
    return y, torch.stack(found)


@NORMS
@pytest.mark.parametrize('loss', ['ce', 'dlr', 'dlr_targeted'])
def test_apgd_breaks_a_linear_model_exactly_inside_the_radius(linear, images, norm, loss):
    y, radius = radii(linear, images, norm)
    eps = float(radius.quantile(0.5))
    found = apgd(linear, images, y, eps=eps, norm=norm, loss=loss, targets=4)
    # The cross-entropy also pulls towards classes that are out of reach.
    assert not found.success[radius > 1.001 * eps].any()
    assert found.success[radius < (0.7 if loss == 'ce' else 0.98) * eps].all()
    assert torch.equal(found.success, linear(found.x_adv).argmax(1) != y)
    assert norm_of(found.x_adv - images, norm).max() <= eps * (1 + 1e-5)
    assert torch.equal(found.x_adv[~found.success], images[~found.success])
    assert found.l2[~found.success].isinf().all()


def test_apgd_halves_its_step_where_it_stalls():
    """From the surface of the ball, steps of twice its radius never reach the dip in it."""

    def dip(x):
        z = 0.02 - (x - 0.513).flatten(1).norm(dim=1)
        return torch.stack([0.0001 - z.clamp_min(-1) + 0.0185, torch.zeros_like(z)], 1)

    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    draws = torch.Generator().manual_seed(0)
    fixed = pgd(dip, x, y, eps=0.1, steps=100, step_size=0.2, generator=draws)
    own = apgd(dip, x, y, eps=0.1, steps=100, generator=draws)
    assert own.success.all() and not fixed.success.any()


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 58, 70, 80, 88, 94]
    gaps = [b - a for a, b in itertools.pairwise([0, *checkpoints(1000)])]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] == 220 and gaps[-1] in (60, 61)


def test_dlr_by_hand():
    logits = torch.tensor([[5.0, 3.0, 1.0, -1.0, 0.0]])
    y = torch.tensor([0])
    assert dlr_loss(logits, y).item() == pytest.approx(-(5 - 3) / (5 - 1))
    assert dlr_loss(logits, y + 1).item() == pytest.approx(-(3 - 5) / (5 - 1))
    target = torch.tensor([3])
    assert dlr_targeted_loss(logits, y, target).item() == pytest.approx(-6 / (5 - (1 + 0) / 2))
    torch.testing.assert_close(dlr_loss(7 * logits - 3, y), dlr_loss(logits, y))


def test_apgd_needs_classes_for_its_loss(images):
    two = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    y = two(images).argmax(1)
    with pytest.raises(ValueError, match="'dlr' needs 3 classes, there are 2"):
        apgd(two, images, y, eps=0.1, loss='dlr')
    # The sequence does without.
    assert standard(two, images, y, eps=0.5, steps=5, queries=5).success.all()


@NORMS
def test_square_finds_what_it_says(linear, images, norm):
    y, radius = radii(linear, images, norm)
    eps = 2 * float(radius.quantile(0.5))
    found = square(
        linear, images, y, eps=eps, norm=norm, queries=400,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert found.n_backward == 0
    assert torch.equal(found.success, linear(found.x_adv).argmax(1) != y)
    assert norm_of(found.x_adv - images, norm).max() <= eps * (1 + 1e-5)
    assert not found.success[radius > eps].any()
    # Random search comes near to the radius: it breaks what has half of the ball to spare.
    assert found.success[radius < eps / 2].float().mean() > 0.8
    assert (found.first_success[found.success] >= 1).all()


def test_the_squares_shrink_by_the_papers_schedule():
    assert share_of_pixels(0, 10000, 0.8) == 0.8
    assert share_of_pixels(11, 10000, 0.8) == 0.4
    assert share_of_pixels(4500, 5000, 0.8) == pytest.approx(0.8 / 512)


@pytest.mark.parametrize('attack', ['pgd', 'apgd_ce', 'square', 'standard'])
def test_draws_of_a_sample_do_not_depend_on_its_batch(linear, images, attack):
    y, radius = radii(linear, images, 'linf')
    options = {'square': dict(queries=60), 'pgd': dict(steps=3)}.get(attack, dict(steps=5))
    options |= dict(queries=60) if attack == 'standard' else {}

    def run(rows):
        return attack_batch(
            attack, linear, images[rows], y[rows], eps=[float(radius.median())],
            generator=sample_generators(0, rows), **options,
        )[0]  # fmt: skip

    together = run(list(range(8)))
    for rows in ([5], [2, 7]):
        apart = run(rows)
        assert torch.equal(apart.success, together.success[rows])
        torch.testing.assert_close(apart.x_adv, together.x_adv[rows], rtol=0, atol=1e-5)


@NORMS
def test_fmn_finds_the_radius(linear, images, norm):
    y, radius = radii(linear, images, norm)
    found = fmn(linear, images, y, steps=100, norm=norm)
    size = norm_of(found.x_adv - images, norm)
    assert found.success.all() and (size >= radius * 0.999).all()
    assert (size / radius).median() < 1.05


def test_each_attack_takes_what_the_others_left(linear, images):
    y, radius = radii(linear, images, 'linf')
    y[0] = (y[0] + 1) % 5  # misclassified
    eps, sizes = float(radius.median()), []

    def counted(x):
        sizes.append(len(x))
        return linear(x)

    found = standard(counted, images, y, eps=eps, steps=10, queries=10)
    assert sum(sizes) >= found.n_forward - len(images)
    assert sizes[-1] == int((~found.success).sum())  # Square has what withstands all
    assert found.by[0] == -1 and found.first_success[0] == 0
    assert torch.equal(found.by >= 0, found.success & (torch.arange(24) > 0))
    only = standard(linear, images, y, eps=eps, parts=['square'], queries=50)
    assert set(only.by.tolist()) == {-1, PARTS.index('square')}
    with pytest.raises(ValueError, match='parts='):
        standard(linear, images, y, eps=eps, parts=['fab'])


@pytest.mark.parametrize('attack', ['pgd', 'apgd_t', 'square', 'standard'])
def test_padding_is_untouched(linear, images, attack):
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    mask[..., 4:] = False
    padded = torch.where(mask, images, -2.0)
    y = linear(padded).argmax(1)
    options = {'square': dict(queries=300)}.get(attack, dict(steps=10))
    options |= dict(queries=40) if attack == 'standard' else {}
    found = attack_batch(attack, linear, padded, y, eps=[1.0], mask=mask, **options)[0]
    assert found.success.any()
    assert torch.equal(found.x_adv[..., 4:], padded[..., 4:])


def test_what_falls_at_a_budget_falls_at_larger_ones(linear, images):
    y, radius = radii(linear, images, 'linf')
    eps = [float(radius.quantile(q)) for q in (0.1, 0.5, 0.9)]
    small, middle, large = attack_batch('apgd_ce', linear, images, y, eps=eps, steps=10)
    assert small.success.sum() < middle.success.sum() < large.success.sum()
    assert torch.equal(large.x_adv[small.success], small.x_adv[small.success])
    assert large.n_forward < middle.n_forward < small.n_forward


def rounded(linear):
    """Inputs rounded to 16 levels: the gradient is zero everywhere."""
    return lambda x: linear((16 * x).round() / 16)


def told(found, check):
    by = [PARTS[index] if index >= 0 else None for index in found.by.tolist()]
    return robustness_warnings(
        random=check.random, zero=float(check.zero.float().mean()),
        by_square=by.count('square'), standing=int((~found.success).sum()),
    )  # fmt: skip


def test_rounded_inputs_are_no_robustness(linear, images):
    net = rounded(linear)
    y = net(images).argmax(1)
    check = check_gradients(net, images, y)
    assert check.zero.all() and not check.random
    still = pgd(net, images, y, eps=0.04, steps=20, random_start=False)
    assert not still.success.any()  # it seems to be perfectly robust
    found = standard(net, images, y, eps=0.04, steps=5, queries=300)
    assert (found.by == PARTS.index('square')).sum() >= 3
    warnings = ' '.join(told(found, check))
    assert 'zero gradients: 100.0%' in warnings and 'masked gradients' in warnings


def test_noise_at_inference_is_seen(linear, images):
    def net(x):
        return linear(x + 0.01 * torch.randn_like(x))

    y = linear(images).argmax(1)
    assert check_gradients(net, images, y).random
    clean = check_gradients(linear, images, y)
    assert not clean.random and not clean.zero.any()
    assert 'randomised' in robustness_warnings(random=True, zero=0)[0]
    assert robustness_warnings(random=False, zero=0, by_square=1, standing=900) == []


def test_the_leaderboard_ranks_and_escapes(tmp_path):
    results = {
        'good': dict(robust_accuracy={'0.1': 70.0}, warnings=[]),
        '<b>bad': dict(robust_accuracy={'0.1': 10.0}, warnings=[]),
        'masked': dict(robust_accuracy={'0.1': 95.0}, warnings=['zero gradients: 100%']),
    }
    for name, result in results.items():
        (tmp_path / name).mkdir()
        result |= dict(attack='standard', images=10, clean_accuracy=99.0, seconds=0.1, norm='linf')
        (tmp_path / name / 'attack.json').write_text(json.dumps(result))
    page = write_leaderboard(tmp_path).read_text()
    places = [page.index(f'</span> {name}<') for name in ('good', '&lt;b&gt;bad', 'masked')]
    assert places == sorted(places)
    assert '<b>' not in page and 'zero gradients: 100%' in page and page.count('<polyline') == 3
    assert 'src=' not in page and 'href=' not in page
