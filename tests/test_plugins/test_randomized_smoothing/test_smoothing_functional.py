"""The regularised risk and the attack against loops, closed forms and finite differences."""

import math

import numpy as np
import pytest
import torch

from mmext.plugins.randomized_smoothing.functional import (
    adre_loss,
    adre_terms,
    smooth_adv,
    smoothed_log_probs,
)


@pytest.fixture
def logits():
    """Logits of 5 noisy copies of 4 images of 3 classes."""
    torch.manual_seed(0)
    return 2 * torch.randn(5, 4, 3, dtype=torch.float64)


def by_hand(logits, y, weight):
    """The risk in Python floats, one image at a time."""
    total = 0.0
    copies, images, classes = logits.shape
    for i in range(images):
        mean, cross_entropy = [0.0] * classes, 0.0
        for j in range(copies):
            odds = [math.exp(value) for value in logits[j, i].tolist()]
            for c in range(classes):
                mean[c] += odds[c] / sum(odds) / copies
            cross_entropy -= math.log(odds[y[i]] / sum(odds)) / copies
        rival = max(value for c, value in enumerate(mean) if c != y[i])
        total += (cross_entropy + weight * math.log(rival)) / images
    return total


@pytest.mark.parametrize('weight', [0.0, 0.1, 2.0])
def test_risk_equals_a_loop(logits, weight):
    y = torch.tensor([0, 1, 2, 0])
    assert float(adre_loss(logits, y, weight)) == pytest.approx(by_hand(logits, y, weight), 1e-12)


def test_runner_up_is_the_wrong_top_class_where_the_smoothed_classifier_errs():
    logits = torch.tensor([[[3.0, 1.0, 0.0]]])
    log_g = logits[0].log_softmax(1)[0]
    assert adre_terms(logits, torch.tensor([0]))[1] == log_g[1]
    assert adre_terms(logits, torch.tensor([2]))[1] == log_g[0]


def test_gradient_of_the_risk(logits):
    y = torch.tensor([0, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda z: adre_loss(z, y, 0.7), logits.requires_grad_())


def test_the_penalty_is_relative(logits):
    """d log G = dG / G: the rarer the runner-up, the larger its pull."""
    first = logits[:1, :1].clone().requires_grad_()
    y = torch.tensor([0])
    (slope,) = torch.autograd.grad(adre_terms(first, y)[1], first)
    p = first.detach().softmax(2)[0, 0]
    rival = 1 if p[1] > p[2] else 2
    expected = torch.nn.functional.one_hot(torch.tensor(rival), 3) - p
    torch.testing.assert_close(slope[0, 0], expected.double())


def test_the_floor_stops_the_penalty():
    sure = torch.tensor([[[30.0, 0.0, 0.0]]], requires_grad=True)
    perturbed, adre = adre_terms(sure, torch.tensor([0]), floor=-8.0)
    assert adre == -8 and torch.autograd.grad(adre, sure, retain_graph=True)[0].abs().max() == 0
    far = adre_terms(sure, torch.tensor([0]), floor=-40.0)[1]
    assert far.item() == pytest.approx(-30, abs=1e-4)


def test_half_precision_does_not_underflow():
    """Probabilities of e-30 are zero in float16; their mean's logarithm would be infinite."""
    half = torch.tensor([[[20.0, -10.0, -10.0]], [[20.0, -10.0, -10.0]]], dtype=torch.float16)
    log_g = smoothed_log_probs(half)
    assert log_g.dtype == torch.float32
    torch.testing.assert_close(log_g[0], torch.tensor([0.0, -30.0, -30.0]))


def test_smoothed_log_probs_equal_the_mean_of_probabilities(logits):
    expected = logits.softmax(2).mean(0).log()
    torch.testing.assert_close(smoothed_log_probs(logits), expected)


@pytest.mark.parametrize(
    ('bad', 'labels', 'floor', 'message'),
    [
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), -10, 'noise, images, classes'),
        (torch.zeros(2, 4, 3), torch.zeros(3, dtype=torch.long), -10, r'y must be \(4,\)'),
        (torch.zeros(2, 4, 3), torch.zeros(4, dtype=torch.long), 0.0, 'floor=0.0'),
        (torch.zeros(2, 4, 1), torch.zeros(4, dtype=torch.long), -10, 'classes >= 2'),
    ],
)
def test_wrong_arguments_of_the_risk(bad, labels, floor, message):
    with pytest.raises(ValueError, match=message):
        adre_loss(bad, labels, 0.1, floor)


def linear(seed=0, classes=2):
    """Logits of a linear model on 1x4x4 images, and its weights."""
    torch.manual_seed(seed)
    weight = torch.randn(classes, 16, dtype=torch.float64)
    return (lambda x: x.flatten(1) @ weight.T), weight


@pytest.mark.parametrize('steps', [1, 3])
def test_the_attack_on_a_linear_model_is_the_closed_form(steps):
    """With two classes the gradient points along w_rival - w_own everywhere."""
    model, weight = linear()
    x = torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64)
    y = torch.tensor([0, 1, 0])
    noise = 0.3 * torch.randn(6, 3, 1, 4, 4, dtype=torch.float64)
    found = smooth_adv(model, x, y, noise, eps=0.4, steps=steps)
    direction = weight[1 - y] - weight[y]
    direction /= direction.norm(dim=1, keepdim=True)
    torch.testing.assert_close((found - x).flatten(1), 0.4 * direction, rtol=1e-9, atol=1e-12)
    assert not found.requires_grad


def test_the_attack_stays_in_ball_and_box_and_raises_the_risk():
    model, _ = linear(1, classes=5)
    x = torch.rand(8, 1, 4, 4, dtype=torch.float64).round(decimals=1)
    x[:, :, 0] = 0.0
    y = torch.arange(8) % 5
    noise = 0.2 * torch.randn(4, 8, 1, 4, 4, dtype=torch.float64)

    def own_log_prob(images):
        log_g = smoothed_log_probs(model((images + noise).flatten(0, 1)).unflatten(0, (4, 8)))
        return log_g.gather(1, y[:, None])[:, 0]

    found = smooth_adv(model, x, y, noise, eps=0.5, steps=4)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert float((found - x).flatten(1).norm(dim=1).max()) <= 0.5 + 1e-12
    assert (own_log_prob(found) < own_log_prob(x)).all()


def test_the_attack_of_one_image_does_not_depend_on_the_others():
    model, _ = linear(2, classes=3)
    x, y = torch.rand(4, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    noise = torch.randn(3, 4, 1, 4, 4, dtype=torch.float64)
    together = smooth_adv(model, x, y, noise, eps=0.3, steps=2)
    for i in range(4):
        part = slice(i, i + 1)
        alone = smooth_adv(model, x[part], y[part], noise[:, part], eps=0.3, steps=2)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-14)


def test_a_vanishing_gradient_leaves_the_image():
    x = torch.rand(2, 1, 4, 4)
    flat = smooth_adv(lambda v: 0 * v.flatten(1)[:, :3], x, torch.tensor([0, 1]),
                      torch.zeros(2, 2, 1, 4, 4), eps=1.0, steps=2)  # fmt: skip
    assert np.array_equal(flat, x)


@pytest.mark.parametrize(('eps', 'steps'), [(0.0, 2), (0.5, 0)])
def test_wrong_arguments_of_the_attack(eps, steps):
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match='eps='):
        smooth_adv(lambda v: v.flatten(1), x, torch.tensor([0]), x[None], eps, steps)
