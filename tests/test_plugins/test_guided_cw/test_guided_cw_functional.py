"""CW-L2, guided CW, DDN and FMN against other implementations and closed forms."""

import foolbox
import pytest
import torch
from adv_lib.attacks import carlini_wagner_l2
from adv_lib.attacks import ddn as their_ddn

from mmext.attacks.gradient_attacks import distance
from mmext.plugins.guided_cw import cw_l2, ddn, fmn


def l2(a, b):
    return (a - b).flatten(1).norm(dim=1)


@pytest.mark.parametrize('targeted', [False, True])
def test_plain_cw_agrees_with_adv_lib_for_each_sample(net, data, targeted):
    x, y = data[0][1:13], data[1][1:13]
    y = (y + 3) % 10 if targeted else y
    ours = cw_l2(net, x, y, steps=40, search_steps=7, lr=0.1, abort_early=False, targeted=targeted)
    theirs = carlini_wagner_l2(
        net, x, y, max_iterations=40, binary_search_steps=7, learning_rate=0.1,
        abort_early=False, targeted=targeted,
    )  # fmt: skip
    assert ours.success.float().mean() > 0.9
    torch.testing.assert_close(
        ours.l2[ours.success], l2(theirs, x)[ours.success], rtol=0, atol=2e-3
    )


def test_kappa_and_early_stops_agree_with_adv_lib_sample_by_sample(net, data):
    x, y = data[0][1:4], data[1][1:4]
    ours = cw_l2(net, x, y, steps=40, search_steps=10, lr=0.1, kappa=1.5)
    for i in range(3):
        theirs = carlini_wagner_l2(
            net, x[i : i + 1], y[i : i + 1], max_iterations=40, binary_search_steps=10,
            learning_rate=0.1, confidence=1.5,
        )  # fmt: skip
        torch.testing.assert_close(ours.l2[i], l2(theirs, x[i : i + 1])[0], rtol=0, atol=2e-3)
    logits = net(ours.x_adv)
    own = logits.gather(1, y[:, None]).squeeze(1)
    assert (logits.scatter(1, y[:, None], -torch.inf).amax(1) - own >= 1.5 - 1e-4).all()


def linear_model(scale, margin):
    """Two classes, images in [0, ``scale``] and their L2 distances from the boundary."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(64, generator=draws) * torch.rand(64, generator=draws) ** 2
    x = 0.5 + 0.02 * torch.randn(8, 1, 8, 8, generator=draws)

    def net(images):
        half = margin * ((images / scale - 0.5).flatten(1) @ weight + 0.6)
        return torch.stack([half, -half], 1)

    optimum = (net(scale * x)[:, 0] / margin * scale / weight.norm()).abs()
    return net, scale * x, optimum


@pytest.mark.parametrize('scale', [0.01, 1, 100])
@pytest.mark.parametrize('margin', [0.01, 1, 100])
@pytest.mark.parametrize('gradients, limit', [(20, 1.3), (200, 1.06)])
def test_guided_cw_finds_the_optimum_of_a_linear_model_in_any_units(
    scale, margin, gradients, limit
):
    """The limits count all gradients of all five constants."""
    net, x, optimum = linear_model(scale, margin)
    found = cw_l2(
        net, x, net(x).argmax(1), steps=gradients // 5, search_steps=5, guide='gradient',
        bounds=(0, scale),
    )  # fmt: skip
    assert found.success.all() and found.n_backward == gradients * len(x)
    assert ((found.l2 / optimum > 0.999) & (found.l2 / optimum < limit)).all()


def test_plain_cw_finds_the_optimum_of_a_linear_model():
    net, x, optimum = linear_model(1, 2)
    found = cw_l2(net, x, net(x).argmax(1), steps=200, search_steps=7, initial_const=0.01, lr=0.02)
    assert ((found.l2 / optimum > 0.999) & (found.l2 / optimum < 1.05)).all()


def test_guided_cw_finds_the_optimum_where_pixels_reach_their_bounds():
    """Pixels have room for 0.1, which the steepest use up: the optimum clips ``t |weight|``."""
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0))
    x = (0.5 - 0.4 * weight.sign())[None]
    needed = 0.08 * weight.abs().sum()

    def net(images):
        margin = (images - x) @ weight + needed
        return torch.stack([margin / 2, -margin / 2], 1)

    low, high = 0.0, 10.0
    for _ in range(50):
        t = (low + high) / 2
        move = (t * weight.abs()).clamp_max(0.1)
        low, high = (t, high) if move @ weight.abs() < needed else (low, t)
    assert 0.1 < (move > 0.0999).float().mean() < 0.8
    found = cw_l2(net, x, torch.tensor([0]), steps=20, search_steps=5, guide='gradient')
    assert found.success.all() and found.l2[0] < 1.06 * move.norm()


def test_guided_cw_needs_no_tuning_to_match_ddn(net, data):
    x, y = data[0][1:], data[1][1:]
    guided = cw_l2(net, x, y, steps=20, search_steps=5, guide='gradient')
    reference = ddn(net, x, y, steps=100)
    assert guided.success.all() and guided.n_backward == reference.n_backward
    assert guided.l2.mean() < 1.1 * reference.l2.mean()
    assert guided.l2.median() < 1.1 * reference.l2.median()


@pytest.mark.parametrize('targeted', [False, True])
def test_guided_cw_keeps_the_confidence(net, data, targeted):
    x, y = data[0][1:13], data[1][1:13]
    y = (y + 3) % 10 if targeted else y
    found = cw_l2(
        net, x, y, steps=20, search_steps=5, guide='gradient', kappa=1.5, targeted=targeted
    )
    assert found.success.all()
    assert (distance(net(found.x_adv), y, targeted) <= 1e-4 - 1.5).all()
    plain = cw_l2(net, x, y, steps=100, search_steps=9, lr=0.1, kappa=1.5, targeted=targeted)
    assert found.l2.mean() < 1.1 * plain.l2.mean()


def test_constants_of_guided_cw_grow_until_they_suffice(net, data):
    """From a constant that is far too small, and from the estimate, the search ends alike."""
    x, y = data[0][1:13], (data[1][1:13] + 3) % 10
    settings = dict(steps=10, search_steps=9, guide='gradient', targeted=True)
    auto = cw_l2(net, x, y, **settings)
    small = cw_l2(net, x, y, initial_const=1e-4, **settings)
    assert auto.success.all() and small.success.all()
    assert small.l2.mean() < 1.1 * auto.l2.mean()


def test_learning_rate_and_constant_may_be_given_to_guided_cw(net, data):
    x, y = data[0][1:9], data[1][1:9]
    settings = dict(steps=5, search_steps=1, guide='gradient')
    auto = cw_l2(net, x, y, **settings)
    for given in (dict(lr=0.3), dict(initial_const=1e-6)):
        assert not torch.equal(cw_l2(net, x, y, **given, **settings).x_adv, auto.x_adv)


@pytest.mark.parametrize('guide', ['none', 'gradient'])
def test_a_sample_does_not_depend_on_its_batch(net, data, guide):
    x, y = data[0][:6], data[1][:6]
    together = cw_l2(net, x, y, steps=30, search_steps=4, guide=guide, lr=0.05)
    for i in range(6):
        alone = cw_l2(
            net, x[i : i + 1], y[i : i + 1], steps=30, search_steps=4, guide=guide, lr=0.05
        )
        torch.testing.assert_close(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-4)


def test_result_says_what_is_true(net, data):
    x, y = data
    result = cw_l2(net, x, y, steps=12, search_steps=3, lr=0.03)
    assert 0 < int(result.success[1:].sum()) < len(x) - 1
    assert torch.equal(result.success, net(result.x_adv).argmax(1) != y)
    failed = ~result.success
    assert torch.equal(result.x_adv[failed], x[failed]) and result.l2[failed].isinf().all()
    torch.testing.assert_close(
        result.l2[result.success], l2(result.x_adv, x)[result.success], rtol=1e-5, atol=1e-6
    )
    assert result.l2[0] == 0 and result.first_success[0] == 0  # misclassified already
    assert torch.equal(result.first_success >= 0, result.success)
    assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1
    full = cw_l2(net, x, y, steps=12, search_steps=3, lr=0.03, abort_early=False)
    assert full.n_forward == len(x) + 36 * (len(x) - 1)
    assert full.n_backward == 36 * (len(x) - 1)
    assert result.n_forward < full.n_forward  # stalled samples have left


def test_finished_samples_leave_the_batch(net, data):
    x, y = data
    sizes = []

    def counted(images):
        sizes.append(len(images))
        return net(images)

    result = cw_l2(counted, x, y, steps=50, search_steps=3, lr=0.1)
    assert sum(sizes) == result.n_forward
    assert sizes[0] == len(x) and sizes[1] == len(x) - 1 and min(sizes) < len(x) - 1


def test_half_bounds_are_a_change_of_units(net, data):
    x, y = data[0][1:9], data[1][1:9]
    unit = cw_l2(net, x, y, steps=40, search_steps=3, lr=0.05, initial_const=0.5)
    doubled = cw_l2(
        lambda images: net(images / 2 + 0.5), 2 * x - 1, y, steps=40, search_steps=3, lr=0.05,
        initial_const=2.0, bounds=(-1, 1),
    )  # fmt: skip
    torch.testing.assert_close(doubled.x_adv / 2 + 0.5, unit.x_adv, rtol=0, atol=2e-2)
    torch.testing.assert_close(doubled.l2, 2 * unit.l2, rtol=0.01, atol=2e-3)


@pytest.mark.parametrize('attack', ['cw', 'guided', 'ddn', 'fmn'])
def test_padding_is_untouched(net, data, attack):
    x, y = data[0][1:9].clone(), data[1][1:9]
    mask = torch.ones(8, 1, 8, 8, dtype=torch.bool)
    mask[..., 6:] = False
    x[..., 6:] = -2.0  # outside the bounds
    y = net(x).argmax(1)
    options = dict(steps=40, search_steps=4, lr=0.1, initial_const=0.1)
    found = {
        'cw': lambda: cw_l2(net, x, y, mask=mask, **options),
        'guided': lambda: cw_l2(net, x, y, mask=mask, guide='gradient', **options),
        'ddn': lambda: ddn(net, x, y, steps=40, mask=mask),
        'fmn': lambda: fmn(net, x, y, steps=40, mask=mask),
    }[attack]()
    assert found.success.any()
    assert torch.equal(found.x_adv[..., 6:], x[..., 6:])
    assert torch.equal(net(found.x_adv).argmax(1) != y, found.success)


def test_without_a_gradient_guided_cw_fails_and_says_so():
    """The gradient at x is exactly zero; its neighbours are of another class."""

    def flat(images):
        z = (images.flatten(1) - 0.5).square().sum(1)
        return torch.stack([torch.full_like(z, 0.01), z], 1)

    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    guided = cw_l2(flat, x, y, steps=30, search_steps=3, guide='gradient')
    assert not guided.success.any() and torch.equal(guided.x_adv, x)
    near = cw_l2(flat, x + 1e-3, y, steps=30, search_steps=3, guide='gradient')
    assert near.success.all() and near.l2 < 0.11


def test_the_guide_helps_where_steps_are_few(net, data):
    """The direction of the effect; projects/guided_cw measures its size."""
    x, y = data[0][1:], data[1][1:]
    plain = cw_l2(net, x, y, steps=15, search_steps=4, initial_const=0.1)
    guided = cw_l2(net, x, y, steps=15, search_steps=4, initial_const=0.1, guide='gradient')
    assert guided.success.sum() > plain.success.sum()


def test_warm_start_goes_on_from_the_last_constant(net, data):
    x, y = data[0][1:9], data[1][1:9]
    settings = dict(steps=12, search_steps=4, initial_const=1.0, lr=0.03, abort_early=False)
    cold = cw_l2(net, x, y, **settings)
    warm = cw_l2(net, x, y, warm_start=True, **settings)
    # 12 steps from x do not reach another class, 48 do.
    assert warm.success.sum() > cold.success.sum()


def test_ddn_agrees_with_adv_lib(net, data):
    x, y = data[0][1:], data[1][1:]
    ours = ddn(net, x, y, steps=40)
    theirs = their_ddn(net, x, y, steps=40, levels=None)
    assert ours.success.all()
    torch.testing.assert_close(ours.l2, l2(theirs, x), rtol=0, atol=2e-3)


def test_fmn_beats_foolbox_and_reaches_what_ddn_reaches(net, data):
    """foolbox does not project (its factor is norms / norms), adv-lib fails on half of them."""
    x, y = data[0][1:], data[1][1:]
    ours = fmn(net, x, y, steps=60)
    wrapped = foolbox.PyTorchModel(net, bounds=(0, 1), device='cpu')
    attack = foolbox.attacks.L2FMNAttack(steps=60, max_stepsize=1.0, gamma=0.05)
    _, theirs, success = attack(wrapped, x, y, epsilons=None)
    assert ours.success.all() and success.all()
    assert ours.l2.median() < l2(theirs, x).median()
    assert ours.l2.median() < 1.05 * ddn(net, x, y, steps=60).l2.median()


@pytest.mark.parametrize('attack', [ddn, fmn])
def test_minimum_norm_attacks_say_what_is_true(net, data, attack):
    x, y = data
    result = attack(net, x, y, steps=8)
    assert torch.equal(result.success, net(result.x_adv).argmax(1) != y)
    assert result.l2[0] == 0 and result.first_success[0] == 0
    assert (result.n_forward, result.n_backward) == (len(x) + 8 * (len(x) - 1), 8 * (len(x) - 1))
    target = (y + 1) % 10
    result = attack(net, x, target, steps=60, targeted=True)
    assert result.success.float().mean() > 0.9
    assert torch.equal(net(result.x_adv).argmax(1) == target, result.success)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(guide='sign'), "guide='sign'"),
        (dict(steps=0), 'steps=0'),
        (dict(lr=0), 'lr=0'),
        (dict(kappa=-1), 'kappa=-1'),
        (dict(initial_const=0), 'initial_const=0'),
    ],
)
def test_bad_settings(net, data, settings, message):
    x, y = data
    with pytest.raises(ValueError, match=message):
        cw_l2(net, x, y, **{'steps': 5, 'search_steps': 1, **settings})


def test_wrong_inputs_are_refused(net, data):
    x, y = data
    with pytest.raises(ValueError, match='float16'):
        cw_l2(net, x.half(), y, steps=1, search_steps=1)
    with pytest.raises(ValueError, match='probabilities'):
        cw_l2(lambda images: net(images).softmax(1), x, y, steps=1, search_steps=1)
    with pytest.raises(ValueError, match='leaves bounds'):
        cw_l2(net, x * 255, y, steps=1, search_steps=1)
    for attack in (ddn, fmn):
        with pytest.raises(ValueError, match='steps=0'):
            attack(net, x, y, steps=0)
        with pytest.raises(ValueError, match='gamma=2'):
            attack(net, x, y, gamma=2)
