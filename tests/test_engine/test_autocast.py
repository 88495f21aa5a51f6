"""bfloat16 training on the CPU against float32, iteration by iteration and end to end."""

import copy
from contextlib import contextmanager

import digits
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mmext.engine.hooks import autocast
from mmext.engine.hooks.autocast import AutocastHook
from mmext.registry import HOOKS

AUTOCAST = [{'type': 'mmext.AutocastHook'}]
BOTH = [*AUTOCAST, {'type': 'mmext.ChannelsLastHook'}]
#: Settings of the optim wrapper with which a training must agree with float32.
WRAPPERS = {
    'plain': {},
    'accumulation': {'accumulative_counts': 2},
    'terngrad': {'type': 'mmext.TernGradOptimWrapper', 'seed': 0, 'min_numel': 1},
    'virtual_workers': {
        'type': 'mmext.TernGradOptimWrapper', 'accumulative_counts': 2, 'virtual_workers': True,
        'min_numel': 1,
    },
}  # fmt: skip


@pytest.fixture
def train(toy_runner, tmp_path):
    """Train the digit network and return its Runner."""

    def run(max_iters, hooks, name='run', resume=None, before=None, **optim_wrapper):
        validate = optim_wrapper.pop('validate', False)
        made = digits.arguments(max_iters, validate, **optim_wrapper)
        start = {} if resume is None else {'resume': True, 'load_from': str(resume)}
        runner = toy_runner(
            max_iters, work_dir=tmp_path / name, custom_hooks=hooks, **made, **start
        )
        if before:
            before(runner)
        runner.train()
        return runner

    return run


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_loss_curve_agrees_with_float32(train, wrapper):
    exact = digits.losses(train(80, [], **WRAPPERS[wrapper]))
    found = digits.losses(train(80, BOTH, **WRAPPERS[wrapper]))
    # bfloat16 has 8 bits: the first loss, of equal weights, agrees to 1 %, and is not the same.
    torch.testing.assert_close(found[0], exact[0], rtol=0.01, atol=0)
    assert found[0] != exact[0]
    assert exact[-20:].mean() < 0.5 * exact[0]
    torch.testing.assert_close(found[-20:].mean(), exact[-20:].mean(), rtol=0.1, atol=0.02)


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_resumed_run_has_the_bits_of_the_uninterrupted_one(train, wrapper, tmp_path):
    whole = train(8, BOTH, 'whole', **WRAPPERS[wrapper])
    train(6, BOTH, 'half', **WRAPPERS[wrapper])
    again = train(8, BOTH, 'half', tmp_path / 'half/iter_6.pth', **WRAPPERS[wrapper])
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_weights_gradients_and_evaluation_stay_float32(train):
    seen, gradients = [], []

    def watch(runner):
        def note(module, inputs, output):
            seen.append((module.training, torch.is_autocast_enabled('cpu'), output.dtype))

        runner.model.fc.register_forward_hook(note)
        for parameter in runner.model.parameters():
            parameter.register_hook(gradients.append)

    runner = train(3, AUTOCAST, before=watch, validate=True)
    assert set(seen) == {(True, True, torch.bfloat16), (False, False, torch.float32)}
    values = [*runner.model.parameters(), *gradients]
    assert {value.dtype for value in values} == {torch.float32}
    assert type(runner.optim_wrapper).__name__ == 'OptimWrapper'


@pytest.fixture
def convolved(monkeypatch):
    """Groups, kernel and stride of each computed convolution -> precision of its output."""
    convolve, seen = nn.functional.conv2d, {}

    def note(inputs, weight, bias, stride, padding, dilation, groups):
        output = convolve(inputs, weight, bias, stride, padding, dilation, groups)
        seen[groups, weight.shape[-1], stride[0]] = output.dtype
        return output

    monkeypatch.setattr(nn.functional, 'conv2d', note)
    return seen


def test_only_depthwise_convolutions_with_slow_gradients_leave_bfloat16(train, convolved):
    received = []

    def watch(runner):
        for norm in runner.model.norms:
            norm.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0].dtype))

    runner = train(2, AUTOCAST, before=watch)
    half, single = torch.bfloat16, torch.float32
    assert convolved == {
        (1, 3, 1): half,
        (16, 5, 1): single,
        (16, 3, 2): single,
        (16, 3, 1): half,
        (1, 1, 1): half,
    }
    # Nothing else leaves it.
    assert set(received) == {half}
    assert not any('_conv_forward' in vars(module) for module in runner.model.modules())


@contextmanager
def attached(toy_runner, **changes):
    """A Runner with the hook between ``before_train`` and ``after_train``."""
    runner = toy_runner(1, **{**digits.arguments(1), **changes})
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    hook = AutocastHook()
    hook.before_train(runner)
    yield runner
    hook.after_train(runner)


@pytest.mark.parametrize('frozen, grad', [(False, False), (True, True)])
def test_layers_without_a_gradient_keep_bfloat16(toy_runner, convolved, frozen, grad):
    with attached(toy_runner) as runner:
        large = runner.model.large.requires_grad_(not frozen)
        features = torch.randn(2, 16, 8, 8)
        with runner.optim_wrapper.optim_context(runner.model), torch.set_grad_enabled(grad):
            large(features)
            assert convolved[16, 5, 1] == torch.bfloat16
        with runner.optim_wrapper.optim_context(runner.model):
            large(features.requires_grad_())
            assert convolved[16, 5, 1] == torch.float32


@pytest.mark.parametrize('layer', ['large', 'strided'])
def test_gradient_of_a_layer_in_float32_is_exact(toy_runner, layer):
    """Oracle: float64 on the same bfloat16 features."""
    features = torch.randn(4, 16, 8, 8).bfloat16()
    with attached(toy_runner) as runner:
        found = getattr(runner.model, layer)
        exact = copy.deepcopy(found).double()
        with runner.optim_wrapper.optim_context(runner.model):
            output = found(features)
        gradient = torch.randn(output.shape).bfloat16()
        output.backward(gradient)
    del exact._conv_forward
    exact(features.double()).backward(gradient.double())
    # bfloat16 would be off by some 1e-2.
    torch.testing.assert_close(found.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-4)


def test_attaching_does_not_move_the_state_of_spectral_norm(toy_runner):
    made = digits.arguments(1)
    spectral_norm(made['model'].strided)
    before = {name: value.clone() for name, value in made['model'].state_dict().items()}
    with attached(toy_runner, **made) as runner:
        with runner.optim_wrapper.optim_context(runner.model):
            assert torch.is_autocast_enabled('cpu')
        assert not torch.is_autocast_enabled('cpu')
    after = runner.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_weight_used_without_gradient_first_still_gets_one(toy_runner):
    """A cache of casts would keep the one that has no gradient."""
    with attached(toy_runner) as runner:
        with runner.optim_wrapper.optim_context(runner.model):
            with torch.no_grad():
                runner.model.stem(torch.ones(1, 1, 8, 8))
            runner.model.stem(torch.ones(1, 1, 8, 8)).sum().backward()
        assert runner.model.stem.weight.grad.any()


@pytest.mark.parametrize(
    'machine, supported, warned', [('x86_64', 0, 1), ('x86_64', 1, 0), ('aarch64', 0, 0)]
)
def test_processor_without_the_instructions_is_warned_of(
    toy_runner, monkeypatch, machine, supported, warned
):
    logged = []
    monkeypatch.setattr(autocast, 'print_log', lambda message, **_: logged.append(message))
    monkeypatch.setattr(autocast.platform, 'machine', lambda: machine)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: bool(supported))
    with attached(toy_runner):
        assert len(logged) == warned


def test_mixed_precision_twice_is_refused(train, amp_on_cpu):
    with pytest.raises(ValueError, match=r'AmpOptimWrapper both set.*without Amp'):
        train(1, AUTOCAST, type='AmpOptimWrapper')
    assert HOOKS.get('mmext.AutocastHook') is AutocastHook
