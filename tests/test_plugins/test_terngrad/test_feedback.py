"""Error feedback in one process."""

import pytest
import torch
from terngrad_runs import Net, batch, flat, resumed_equals_whole, step, wrapper_for
from torch import nn

from mmext.plugins.terngrad.exchange import Exchange
from mmext.plugins.terngrad.feedback import nearest, nearest_scalers


def exchange_for(numel, **settings):
    layer = nn.Parameter(torch.zeros(numel))
    exchange = Exchange(min_numel=1, error_feedback=True, **settings)
    exchange.attach(nn.ParameterList([layer]))
    return exchange, layer


def test_what_is_left_out_comes_later():
    """Sums of the gradients and of what was sent differ by the last error alone."""
    exchange, layer = exchange_for(3000)
    draws = torch.Generator().manual_seed(0)
    given = sent = torch.zeros(3000)
    errors = []
    for update in range(60):
        grad = torch.randn(3000, generator=draws) * 0.01 + 0.005
        exchange.begin(0, update, 0, ternary=True, measure=False)
        (mean,) = exchange.average([layer], [[grad.clone()]])
        given, sent = given + grad, sent + mean
        errors.append((given - sent).norm().item())
        torch.testing.assert_close(exchange.feedback.errors[0][0], given - sent, rtol=0, atol=1e-5)
    # It stays as long as a few gradients instead of growing with their number.
    assert max(errors[30:]) < 1.3 * max(errors[:30])


def test_codes_are_the_nearest_and_their_scaler_the_closest():
    """For a Gaussian: s is 1.22 sigma, and 19 % of the square are left out (Lloyd, Max)."""
    grad = torch.randn(400_000, generator=torch.Generator().manual_seed(1))
    scale = nearest_scalers([grad])[0]
    assert scale.item() == pytest.approx(1.224, abs=0.01)
    codes = nearest(grad, scale, torch.empty(400_000, dtype=torch.int8))
    levels = torch.tensor([-1, 0, 1])
    closest = (grad[:, None] - scale * levels).abs().argmin(1) - 1
    assert torch.equal(codes, closest.to(torch.int8))
    left = [(grad - x * scale * codes).square().mean().item() for x in (0.9, 1.0, 1.1)]
    assert left[1] == pytest.approx(0.190, abs=0.003) and left[1] < min(left[0], left[2])
    assert nearest_scalers([torch.zeros(3), torch.tensor([1.0, float('nan')])]).tolist() == [
        0.0, float('inf')
    ]  # fmt: skip


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_an_overflow_leaves_the_errors(bad):
    exchange, layer = exchange_for(50)
    grad = torch.linspace(-1, 1, 50)
    exchange.begin(0, 0, 0, ternary=True, measure=False)
    exchange.average([layer], [[grad]])
    before = exchange.feedback.errors[0][0].clone()
    exchange.begin(0, 1, 0, ternary=True, measure=False)
    broken = grad.clone()
    broken[3] = bad
    (mean,) = exchange.average([layer], [[broken]])
    assert before.any() and torch.equal(exchange.feedback.errors[0][0], before)
    assert not mean.isfinite().any() and torch.isnan(broken).any() == (bad != bad)


def test_errors_do_not_depend_on_the_loss_scale():
    found = []
    for scale in (1.0, 1024.0):
        exchange, layer = exchange_for(500)
        for update in range(3):
            grad = torch.linspace(-1, 1, 500) * scale
            exchange.begin(0, update, 0, ternary=True, measure=False, loss_scale=scale)
            (mean,) = exchange.average([layer], [[grad]])
        found += [(mean / scale, exchange.feedback.errors[0][0])]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_zeros_have_no_errors():
    exchange, layer = exchange_for(9)
    exchange.begin(0, 0, 0, ternary=True, measure=False)
    (mean,) = exchange.average([layer], [[torch.zeros(9)]])
    assert not mean.any() and not exchange.feedback.errors[0][0].any()


def test_gradients_that_travel_as_floats_take_the_errors_with_them():
    exchange, layer = exchange_for(50)
    grad = torch.linspace(-1, 1, 50)
    exchange.begin(0, 0, 0, ternary=True, measure=False)
    exchange.average([layer], [[grad]])
    error = exchange.feedback.errors[0][0].clone()
    changed = grad.clone()
    exchange.restore([changed], [0])
    assert torch.equal(changed, grad + error) and not exchange.feedback.errors[0]


@pytest.mark.parametrize(
    'settings', [{}, dict(virtual_workers=True, accumulative_counts=3)], ids=['one', 'virtual']
)
def test_resume_equals_uninterrupted_bit_for_bit(tmp_path, settings):
    assert resumed_equals_whole(tmp_path, error_feedback=True, **settings)


def test_workers_keep_their_own_errors():
    torch.manual_seed(0)
    model = Net()
    wrapper = wrapper_for(model, error_feedback=True, virtual_workers=True, accumulative_counts=2)
    for worker in range(2):
        step(model, wrapper, batch(worker, 0))
    first, second = wrapper.exchange.feedback.errors.values()
    assert len(first) == len(list(model.parameters()))
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert flat(model).isfinite().all()


def test_requantize_rounds_the_sums_of_virtual_workers():
    exchange = Exchange(clip_factor=None, min_numel=1, requantize=True)
    layer = nn.Parameter(torch.zeros(4000))
    exchange.attach(nn.ParameterList([layer]))
    grad = torch.full((4000,), 0.5)
    grad[0] = 1.0
    exchange.begin(0, 0, 0, ternary=True, measure=False)
    (mean,) = exchange.average([layer], [[grad]] * 21)
    step = (mean.unique().diff()).min()
    levels = mean / step
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    # Sums around 10.5 of 21: levels are more than 5 apart, and half of them the mean of all.
    assert step.item() == pytest.approx(10.7 / 2 / 21, rel=0.02)
    assert mean.mean().item() == pytest.approx(0.5, abs=0.01)
