"""FGSM and PGD against closed forms on a linear model."""

import pytest
import torch
from torch import nn

from mmext.attacks.gradient_attacks import (
    distance,
    distance_direction,
    entropy_direction,
    fgsm,
    perturb,
    pgd,
)


@pytest.fixture
def linear():
    """Two classes; the margin of class 0 is w x + b."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 2).double()
    with torch.no_grad():
        layer.weight[1] = -layer.weight[0]
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def images():
    return 0.3 + 0.4 * torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(3)).double()


def test_distance_and_its_gradient():
    logits = torch.randn(5, 4, dtype=torch.float64) - 10  # all below zero
    y = torch.tensor([0, 1, 2, 3, 0])
    for targeted in (False, True):
        for row in range(5):
            others = [logits[row, c] for c in range(4) if c != y[row]]
            expected = logits[row, y[row]] - max(others)
            found = distance(logits, y, targeted, kappa=0.5)[row]
            torch.testing.assert_close(found, (-expected if targeted else expected) + 0.5)
        leaf = logits.clone().requires_grad_()
        (expected,) = torch.autograd.grad(distance(leaf, y, targeted).sum(), leaf)
        assert torch.equal(distance_direction(logits, y, targeted), expected)


def test_the_entropy_direction_is_its_gradient_up_to_a_factor():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 0])
    loss = nn.functional.cross_entropy(logits, y, reduction='sum')
    (gradient,) = torch.autograd.grad(loss, logits)
    gradient = gradient / gradient.abs().amax(1, keepdim=True)
    torch.testing.assert_close(entropy_direction(logits, y), gradient)
    torch.testing.assert_close(entropy_direction(logits, y, targeted=True), -gradient)


def test_confident_samples_are_not_left_alone():
    """The plain gradient of the cross-entropy is exactly 0 here."""
    logits = torch.tensor([[500.0, 0.0, -400.0]])
    found = entropy_direction(logits, torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0]]))


@pytest.mark.parametrize('norm, dual', [('linf', 1), ('l2', 2)])
def test_one_step_reaches_the_optimum_of_a_linear_model(linear, images, norm, dual):
    y = linear(images).argmax(1)
    eps = torch.linspace(0, 0.2, 6, dtype=torch.float64)
    moved = perturb(linear, images, y, eps=eps, norm=norm)
    weight = (linear[1].weight[0] - linear[1].weight[1]).norm(p=dual)
    drop = distance(linear(images), y) - distance(linear(moved), y)
    torch.testing.assert_close(drop, eps * weight)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_images_stay_in_ball_and_bounds(linear, images, norm):
    y = linear(images).argmax(1)
    draws = torch.Generator().manual_seed(0)
    moved = perturb(
        linear, images, y, eps=0.5, steps=7, norm=norm, random_start=True, generator=draws
    )
    delta = (moved - images).flatten(1)
    size = delta.abs().amax(1) if norm == 'linf' else delta.norm(dim=1)
    assert (size <= 0.5 + 1e-9).all() and size.max() > 0.4
    assert moved.min() >= 0 and moved.max() <= 1


def test_random_starts_are_uniform_in_the_ball():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    nn.init.zeros_(net[1].weight)
    x = torch.full((4000, 2), 0.5)
    draws = torch.Generator().manual_seed(0)
    for norm, inner in (('l2', 0.25), ('linf', 0.25)):
        start = perturb(net, x, torch.zeros(4000).long(), eps=0.4, norm=norm, random_start=True,
                        step_size=0.0, generator=draws) - x  # fmt: skip
        size = start.norm(dim=1) if norm == 'l2' else start.abs().amax(1)
        assert float((size < 0.2).float().mean()) == pytest.approx(inner, abs=0.03)


def test_padding_is_untouched(linear, images):
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[..., 0, :] = True
    images[..., 1, :] = 3.0  # outside the bounds, as padding may be
    y = linear(images).argmax(1)
    moved = perturb(linear, images, y, eps=0.3, steps=3, random_start=True, mask=mask)
    assert torch.equal(moved[..., 1, :], images[..., 1, :])
    assert not torch.equal(moved[..., 0, :], images[..., 0, :])
    pgd(linear, images, y, eps=0.1, steps=1, mask=mask)
    with pytest.raises(ValueError, match=r'leaves bounds=\(0, 1\).*up to|leaves bounds'):
        pgd(linear, images, y, eps=0.1, steps=1)


def test_own_prediction_leads_away_from_it(linear, images):
    wrong = 1 - linear(images).argmax(1)
    moved = perturb(linear, images, wrong, eps=0.1, own_prediction=True)
    expected = perturb(linear, images, 1 - wrong, eps=0.1)
    assert torch.equal(moved, expected)


def test_pgd_reports_what_it_found(linear, images):
    y = linear(images).argmax(1)
    y[0] = 1 - y[0]  # misclassified already
    weight = (linear[1].weight[0] - linear[1].weight[1]).abs().sum()
    needed = distance(linear(images), y) / weight
    eps = float(needed[1:].median())
    result = pgd(linear, images, y, eps=eps, steps=10, random_start=False)
    assert torch.equal(result.success, needed < eps)
    assert torch.equal(result.success, linear(result.x_adv).argmax(1) != y)
    failed = ~result.success
    assert failed.any() and torch.equal(result.x_adv[failed], images[failed])
    assert result.l2[failed].isinf().all()
    assert result.first_success[0] == 0 and result.l2[0] == 0
    assert torch.equal(result.first_success >= 0, result.success)
    assert (result.n_forward, result.n_backward) == (6 + 5 * 11, 5 * 10)


def test_fgsm_is_one_step(linear, images):
    y = linear(images).argmax(1)
    result = fgsm(linear, images, y, eps=0.4)
    step = perturb(linear, images, y, eps=0.4)
    assert result.success.any()
    assert torch.equal(result.x_adv[result.success], step[result.success])


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(norm='l1'), "norm='l1'"),
        (dict(steps=0), 'steps=0'),
        (dict(eps=-0.1), 'eps=-0.1'),
    ],
)
def test_bad_settings(linear, images, settings, message):
    with pytest.raises(ValueError, match=message):
        perturb(linear, images, torch.zeros(6).long(), **{'eps': 0.1, **settings})


@pytest.mark.parametrize(
    'x, y, message',
    [
        (torch.rand(2, 3) * 255, torch.zeros(2).long(), 'put the normalisation into logits_fn'),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2).long(), 'uint8'),
        (torch.rand(2, 3), torch.zeros(3).long(), r'shape \(2,\)'),
    ],
)
def test_bad_images(linear, x, y, message):
    with pytest.raises(ValueError, match=message):
        pgd(linear, x, y, eps=0.1)
