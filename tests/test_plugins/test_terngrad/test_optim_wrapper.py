"""The optim wrappers in one process."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from terngrad_runs import Net, batch, flat, resumed_equals_whole, runner, step, wrapper_for
from torch import nn

import mmext  # noqa: F401
from mmext.engine import phases
from mmext.plugins.terngrad import TernGradAmpOptimWrapper, TernGradOptimWrapper
from mmext.plugins.terngrad import functional as F


def net():
    torch.manual_seed(0)
    return Net()


def gradients(model, **settings):
    """What reaches the optimizer after one step, and the gradient before."""
    wrapper = wrapper_for(model, **settings)
    model(**batch(0, 0), mode='loss')['loss'].backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    seen = []
    wrapper.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(parameter.grad.clone() for parameter in model.parameters())
    )
    step(model, wrapper, batch(0, 0))
    return seen, plain, wrapper


def test_names_are_registered():
    assert OPTIM_WRAPPERS.get('mmext.TernGradOptimWrapper') is TernGradOptimWrapper
    assert OPTIM_WRAPPERS.get('mmext.TernGradAmpOptimWrapper') is TernGradAmpOptimWrapper


def test_one_gradient_becomes_ternary():
    seen, plain, _ = gradients(net())
    for ternary, grad in zip(seen, plain, strict=True):
        limit = F.clip_limits([grad], 2.5)
        scale = F.scalers([grad], limit)[0]
        assert set(ternary.abs().unique().tolist()) <= {0.0, scale.item()}
        assert (ternary * grad >= 0).all()


def test_virtual_workers_average_ternary_gradients():
    """Levels are multiples of s / N, and the mean over many seeds is the float mean."""
    model = net()
    total = torch.zeros(flat(model).numel(), dtype=torch.float64)
    squares = torch.zeros_like(total)
    draws = 32
    for seed in range(draws):
        model = net()
        before = flat(model).double()
        wrapper = wrapper_for(
            model, lr=1.0, virtual_workers=True, accumulative_counts=4, seed=seed, clip_factor=None
        )
        for worker in range(4):
            step(model, wrapper, batch(worker, 0))
        moved = before - flat(model).double()
        total += moved
        squares += moved.square()
    model = net()
    for worker in range(4):
        (model(**batch(worker, 0), mode='loss')['loss'] / 4).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()
    mean = total / draws
    deviation = (squares / draws - mean.square()).clamp_min(0).sqrt() / draws**0.5
    z = (mean - expected) / deviation.clamp_min(1e-6)
    # Thousands of z scores: standard normal, but for parameters whose rare codes never came up.
    inside = (deviation > 0) & (squares > 0)
    assert z[inside].abs().mean() < 1.1
    assert z[inside].square().mean().sqrt() < 1.6


def test_float_layers_stay_as_they_are():
    seen, plain, _ = gradients(net(), min_numel=100, keep_float=[r'layers\.3\.weight'])
    names = [name for name, _ in net().named_parameters()]
    for name, got, grad in zip(names, seen, plain, strict=True):
        untouched = grad.numel() < 100 or name == 'layers.3.weight'
        assert torch.equal(got, grad) == untouched, name


def test_warm_up_is_the_parent():
    model, reference = net(), net()
    wrapper = wrapper_for(model, begin_iter=3)
    parent = OptimWrapper(torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9))
    for index in range(3):
        step(model, wrapper, batch(0, index))
        step(reference, parent, batch(0, index))
    assert torch.equal(flat(model), flat(reference))
    step(model, wrapper, batch(0, 3))
    step(reference, parent, batch(0, 3))
    assert not torch.equal(flat(model), flat(reference))


def test_draws_differ_between_updates_layers_and_repeats():
    exchange = wrapper_for(net(), clip_factor=None).exchange
    layers = nn.ParameterList(torch.zeros(64) for _ in range(2))
    exchange.attach(layers)
    grads = [torch.full((64,), 0.5), torch.full((64,), 0.5)]
    grads[0][0] = grads[1][0] = 1.0

    def draw(update, repeat):
        exchange.begin(0, update, repeat, ternary=True, measure=False)
        return exchange.average(list(layers), [grads])

    first = draw(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(0, 0), strict=True))
    drawn = [*first, *draw(1, 0), *draw(0, 1)]
    for index, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:index])


def test_equal_workers_draw_apart():
    """With one draw for all, the mean of two equal workers would have no half levels."""
    exchange = wrapper_for(net(), clip_factor=None).exchange
    layer = nn.Parameter(torch.zeros(64))
    exchange.attach(nn.ParameterList([layer]))
    grad = torch.full((64,), 0.5)
    grad[0] = 1.0
    exchange.begin(0, 0, 0, ternary=True, measure=False)
    (mean,) = exchange.average([layer], [[grad], [grad]])
    assert mean.unique().tolist() == [0.0, 0.5, 1.0]


def test_several_backwards_in_one_iteration_draw_afresh():
    """As GANs do: the hub says the same iteration for each."""
    model = net()
    wrapper = wrapper_for(model)
    wrapper.message_hub.update_info('iter', 7)
    places = []
    for _ in range(3):
        step(model, wrapper, batch(0, 0))
        places.append(wrapper._place)
    wrapper.message_hub.update_info('iter', 8)
    step(model, wrapper, batch(0, 0))
    assert [*places, wrapper._place] == [(7, 0), (7, 1), (7, 2), (8, 0)]


@pytest.mark.parametrize(
    'settings', [{}, dict(virtual_workers=True, accumulative_counts=3)], ids=['one', 'virtual']
)
def test_resume_equals_uninterrupted_bit_for_bit(tmp_path, settings):
    assert resumed_equals_whole(tmp_path, **settings)


def test_run_logs_diagnostics_and_draws_by_its_seed(tmp_path):
    first = runner(tmp_path / 'a', 2)
    first.train()
    assert 0.3 < first.message_hub.get_scalar('train/terngrad/zeros').current() < 0.99
    assert first.message_hub.get_scalar('train/terngrad/norm_inflation').current() > 1
    other = runner(tmp_path / 'b', 2, seed=1234)
    other.train()
    assert not torch.equal(flat(first.model), flat(other.model))


def test_overflow_reaches_the_optimizer():
    """The GradScaler's job begins with a non-finite gradient in every layer that had one."""
    model = net()
    wrapper = wrapper_for(model)
    data = batch(0, 0)
    data['inputs'][0] = float('inf')
    seen = []
    wrapper.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(parameter.grad.isfinite().any() for parameter in model.parameters())
    )
    step(model, wrapper, data)
    assert seen and not any(seen)


def test_works_under_phases_and_with_clipping():
    model = net()
    wrapper = wrapper_for(model, clip_grad=dict(max_norm=1e-3))
    calls = []
    phased = phases.attach(wrapper)
    phased.register('after_backward', lambda: calls.append('backward'), name='test')
    phased.register('before_update', lambda optimizer: calls.append('update'), name='test')
    step(model, wrapper, batch(0, 0))
    assert calls == ['backward', 'update']
    # Clipped after the exchange: the norm of what the optimizer got (momentum's first step).
    norm = torch.cat([state['momentum_buffer'].flatten()
                      for state in wrapper.optimizer.state.values()]).norm()  # fmt: skip
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_frozen_and_unused_parameters_are_left_alone():
    model = net()
    model.layers[0].requires_grad_(False)
    wrapper = wrapper_for(model)
    before = model.layers[0].weight.clone()
    step(model, wrapper, batch(0, 0))
    assert model.layers[0].weight.grad is None and torch.equal(model.layers[0].weight, before)


def test_half_precision_gradients():
    torch.manual_seed(0)
    model = Net(dtype=torch.bfloat16)
    seen, plain, _ = gradients(model)
    for ternary, grad in zip(seen, plain, strict=True):
        assert ternary.dtype == torch.bfloat16
        assert ternary.unique().numel() <= 3 and (ternary.float() * grad.float() >= 0).all()


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(clip_factor=0), 'clip_factor=0.*above 0'),
        (dict(clip_factor=-2.5), 'clip_factor=-2.5'),
        (dict(min_numel=0), 'min_numel=0'),
        (dict(begin_iter=-1), 'begin_iter=-1'),
        (dict(transport='pigeon'), "transport 'pigeon'.*ternary"),
        (dict(keep_float='fc'), "keep_float must be a list.*'fc'"),
        (dict(share_scaler=False, requantize=True), 'share_scaler=True'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        wrapper_for(net(), **settings)


def test_unknown_argument():
    with pytest.raises(TypeError, match='clipfactor'):
        wrapper_for(net(), clipfactor=2.5)


def enter(model, **settings):
    with wrapper_for(model, **settings).optim_context(model):
        pass


def test_errors_when_the_model_is_seen():
    with pytest.raises(ValueError, match=r"keep_float='head\.fc' matches no parameter.*layers"):
        enter(net(), keep_float=['head.fc'])
    with pytest.raises(TypeError, match='sparse=False'):
        enter(nn.Embedding(3, 2, sparse=True))
    complex_model = nn.Module()
    complex_model.weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match='complex.*keep_float'):
        enter(complex_model)
    enter(complex_model, keep_float=['weight'])
    with pytest.raises(RuntimeError, match='optim_context'):
        wrapper_for(net()).step()


@pytest.mark.parametrize('name', ['FullyShardedDataParallel', 'FSDPModule', 'DeepSpeedEngine'])
def test_sharded_models_are_refused(name):
    sharded = type(name, (nn.Linear,), {})(2, 2)
    with pytest.raises(TypeError, match=f'{name}.*MMDistributedDataParallel'):
        enter(sharded)


@pytest.mark.parametrize('share_scaler', [True, False])
def test_more_workers_than_a_byte_can_add(share_scaler):
    model = nn.Linear(2, 2)
    exchange = wrapper_for(model, share_scaler=share_scaler).exchange
    exchange.attach(model)
    grads = [torch.ones(2, 2), torch.ones(2)]
    means = exchange.average(list(model.parameters()), [grads] * 300)
    assert all(torch.equal(mean, grad) for mean, grad in zip(means, grads, strict=True))


def test_amp_wrapper_is_the_parent_plus_terngrad():
    """It needs a GPU to be built; on a CPU its parts and their order are checked."""
    names = [base.__name__ for base in TernGradAmpOptimWrapper.__mro__]
    assert (
        names.index('TernGradMixin') < names.index('AmpOptimWrapper') < names.index('OptimWrapper')
    )
    if torch.cuda.is_available():
        return
    with pytest.raises(AssertionError, match='gpu'):
        TernGradAmpOptimWrapper(optimizer=torch.optim.SGD(net().parameters(), lr=0.1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_amp_trains_on_a_gpu():
    model = net().cuda()
    wrapper = TernGradAmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), seed=0)
    before = flat(model).clone()
    step(model, wrapper, {key: value.cuda() for key, value in batch(0, 0).items()})
    assert flat(model).isfinite().all() and not torch.equal(flat(model), before)
