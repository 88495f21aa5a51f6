"""SmoothOutHook in real runs: clean weights everywhere but between forward and backward."""

import copy

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.optim.optimizer import amp_optimizer_wrapper
from smoothout_runs import Call, Net, Points, Spy, build, copies, equal, parameters, smooth
from torch import nn

from mmext.engine import phases, rng
from mmext.plugins.smoothout import select_parameters
from mmext.plugins.smoothout.functional import noise_like
from mmext.registry import HOOKS


@pytest.mark.parametrize('adapt', ['none', 'weight', 'filter'])
def test_weights_are_bit_identical_after_steps_without_learning_rate(tmp_path, adapt):
    spy = Spy()
    runner = build(tmp_path, [smooth(adapt=adapt)], 5, spy.net, lr=0.0)
    before = copies(spy.net)
    runner.train()
    assert equal(parameters(copies(spy.net)), parameters(before))
    for seen in spy.seen:
        for name in parameters(seen):
            noisy = not name.startswith(('norm', 'frozen'))
            if adapt == 'filter' and noisy:
                norms, clean = (
                    t[name].flatten(1) if t[name].dim() > 1 else t[name][:, None]
                    for t in (
                        {name: seen[name].double() - before[name].double()},
                        {name: before[name].double()},
                    )
                )
                torch.testing.assert_close(
                    norms.norm(dim=1), 0.05 * clean.norm(dim=1), rtol=1e-4, atol=1e-7
                )
            assert torch.equal(seen[name], before[name]) != noisy, name
    assert len({seen['conv.weight'].sum().item() for seen in spy.seen}) == 5


def test_zero_strength_is_the_baseline_bit_for_bit(tmp_path):
    plain, zero, some = (
        build(tmp_path / name, hooks)
        for name, hooks in (
            ('plain', []), ('zero', [smooth(strength=0)]), ('some', [smooth()])
        )
    )  # fmt: skip
    for runner in (plain, zero, some):
        runner.train()
    assert equal(copies(plain.model), copies(zero.model))
    assert not equal(copies(plain.model), copies(some.model))


def test_gradient_is_that_at_the_noisy_weights():
    """Against autograd in float64 at w + n, with n drawn here from the documented stream."""
    torch.manual_seed(0)
    net = Net().double()
    data = {name: value.double() for name, value in vars(Points()).items()}
    batch = {'image': data['images'][:8], 'target': data['targets'][:8]}
    wrapper = OptimWrapper(torch.optim.SGD(net.parameters(), lr=0.0))
    hook = HOOKS.build(smooth(adapt='filter', seed=11))
    hook.before_train(FakeRunner(net, wrapper, iteration=6))
    reference = copy.deepcopy(net)
    with wrapper.optim_context(net):
        loss = net(**batch)['loss']
    gradients = []
    phases.attach(wrapper).register(
        'after_backward',
        lambda: gradients.extend(p.grad.clone() for p in net.conv.parameters()),
        'x',
    )
    wrapper.update_params(loss)

    generator = rng.generator(11, 'smoothout/', 0, 6, 0)
    moved = [p for p in select_parameters(reference) if p.requires_grad]
    with torch.no_grad():
        for param in moved:
            param.add_(noise_like(param, 0.05, 'filter', generator=generator))
    expected = reference(**batch)['loss']
    grads = torch.autograd.grad(expected, list(reference.conv.parameters()))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for got, wanted in zip(gradients, grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


class FakeRunner:
    """What the hook reads of a Runner, for steps made by hand."""

    class message_hub:  # noqa: N801
        scalars = {}

        @classmethod
        def update_scalar(cls, name, value):
            cls.scalars[name] = value

    def __init__(self, model, optim_wrapper, iteration=0, max_iters=100):
        self.model, self.optim_wrapper, self.iter = model, optim_wrapper, iteration
        self.max_iters, self.rank, self.seed = max_iters, 0, 0


def test_tied_parameter_moves_once_and_within_the_box(tmp_path):
    spy = Spy()
    build(tmp_path, [smooth()], 1, spy.net, lr=0.0).train()
    moved = spy.seen[0]
    assert torch.equal(moved['first.weight'], moved['second.weight'])
    assert len({id(p) for p in select_parameters(spy.net)}) == len(select_parameters(spy.net))
    moved_by = (moved['first.weight'] - spy.net.first.weight.detach()).abs()
    assert 0.03 < moved_by.max() < 0.05001


def test_nothing_but_the_model_sees_noise(tmp_path):
    """Hooks of all priorities, checkpoints, EMA and validation, also between micro-batches."""
    seen = []
    points = ('before_train_iter', 'after_train_iter', 'before_val', 'after_val',
              'before_save_checkpoint')  # fmt: skip
    spies = [Call(point, lambda runner: seen.append(copies(runner.model))) for point in points]
    for priority in ('HIGHEST', 'LOWEST'):
        for spy in spies[:2]:
            spy = copy.copy(spy)
            spy.priority = priority
            spies.append(spy)
    ema = {'type': 'EMAHook', 'momentum': 0.5}
    runner = build(
        tmp_path, [smooth(), *spies, ema], 7, validate=True, lr=0.3,
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.3}, 'accumulative_counts': 3},
    )  # fmt: skip
    start = copies(runner.model)
    updates = []

    def watch(run):
        note = lambda _: updates.append(parameters(copies(run.model)))  # noqa: E731
        phases.attach(run.optim_wrapper).register('after_update', note, 'watch')

    runner.register_hook(Call('before_train', watch))
    runner.train()
    assert len(updates) == 3  # iterations 3, 6 and the rest at 7
    # EMAHook shows the averaged weights to validation and swaps names in checkpoints.
    allowed = [parameters(start), *updates]
    average = allowed[0]
    averages = [average]
    for iteration in range(1, 8):
        current = allowed[0 if iteration < 3 else 1 if iteration < 6 else 2 if iteration < 7 else 3]
        average = current if iteration == 1 else {
            k: torch.lerp(v, current[k], 0.5) for k, v in average.items()
        }  # fmt: skip
        averages.append(average)
    assert len(seen) > 30
    for state in map(parameters, seen):
        assert any(equal(state, clean) for clean in allowed) or any(
            all(torch.allclose(state[k], mean[k], rtol=1e-5, atol=1e-7) for k in state)
            for mean in averages
        )
    for iteration in range(1, 8):
        saved = torch.load(tmp_path / f'iter_{iteration}.pth', weights_only=False)
        current = allowed[0 if iteration < 3 else 1 if iteration < 6 else 2 if iteration < 7 else 3]
        ema_state = {k.removeprefix('module.'): v for k, v in saved['ema_state_dict'].items()}
        assert equal(parameters({k: v for k, v in ema_state.items() if k != 'steps'}), current)


def test_micro_batches_have_noise_of_their_own_and_gradients_add_up(tmp_path):
    spy = Spy()
    build(
        tmp_path, [smooth()], 4, spy.net,
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.0}, 'accumulative_counts': 4},
    ).train()  # fmt: skip
    weights = [seen['conv.weight'] for seen in spy.seen]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


@pytest.mark.parametrize('when', ['forward', 'backward'])
def test_exception_leaves_clean_weights(tmp_path, when):
    net = Net()
    runner = build(tmp_path, [smooth()], 3, net)
    before = copies(net)
    noisy = []

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise KeyboardInterrupt

    def fail(model):
        noisy.append(not torch.equal(model.conv.weight, before['conv.weight']))
        if when == 'forward':
            raise KeyboardInterrupt
        model.conv.weight.register_hook(lambda grad: Fails.backward(None, grad))

    net.before_loss.append(fail)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert noisy == [True]
    assert equal(parameters(copies(net)), parameters(before))
    # The same run can be started again.
    net.before_loss.clear()
    net.conv.weight._backward_hooks = None
    runner.train()
    assert type(runner.optim_wrapper) is OptimWrapper


def test_a_step_without_backward_is_cleaned_up(tmp_path):
    class Idle(Net):
        def train_step(self, data, optim_wrapper):
            with optim_wrapper.optim_context(self):
                assert not torch.equal(self.conv.weight, before['conv.weight'])
            return {}

    net = Idle()
    runner = build(tmp_path, [smooth()], 1, net)
    before = copies(net)
    runner.train()
    saved = torch.load(tmp_path / 'iter_1.pth', weights_only=False)['state_dict']
    assert equal(parameters(saved), parameters(before))


def test_two_forwards_of_one_backward_share_their_noise():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
    hook = HOOKS.build(smooth())
    hook.before_train(FakeRunner(model, wrapper))
    before = model.weight.detach().clone()
    seen, losses = [], []
    for _ in range(2):
        with wrapper.optim_context(model):
            seen.append(model.weight.detach().clone())
            losses.append(model(torch.ones(1, 3)).square().sum())
    wrapper.update_params(sum(losses))
    assert torch.equal(*seen) and not torch.equal(seen[0], before)
    assert torch.equal(model.weight, before)
    # A third forward of the same iteration draws anew.
    with wrapper.optim_context(model):
        assert not torch.equal(model.weight, seen[0])
        loss = model(torch.ones(1, 3)).sum()
    wrapper.update_params(loss)


def test_two_forwards_of_one_backward_are_both_clean_or_both_noisy():
    model = nn.Linear(3, 1)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
    runner = FakeRunner(model, wrapper)
    HOOKS.build(smooth(clean_fraction=0.5)).before_train(runner)
    before, clean = model.weight.detach().clone(), []
    for runner.iter in range(20):
        seen, losses = [], []
        for _ in range(2):
            with wrapper.optim_context(model):
                seen.append(model.weight.detach().clone())
                # The gradient needs the weight, so autograd objects where it has changed since.
                losses.append((model(torch.ones(1, 3)) * model.weight).sum())
        wrapper.update_params(sum(losses))
        assert torch.equal(*seen) and torch.equal(model.weight, before)
        clean.append(torch.equal(seen[0], before))
    assert 2 < sum(clean) < 18


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    hooks = [smooth(adapt='filter', schedule='tanh', clean_fraction=0.3)]
    whole = build(tmp_path / 'whole', hooks, 6)
    whole.train()
    torch.rand(5)
    resumed = build(
        tmp_path / 'resumed', hooks, 6, resume=True,
        load_from=str(tmp_path / 'whole/iter_3.pth'),
    )  # fmt: skip
    resumed.train()
    assert equal(copies(whole.model), copies(resumed.model))
    other = build(tmp_path / 'other', [smooth(seed=9)], 6)
    other.train()
    assert not equal(copies(whole.model), copies(other.model))


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """Let AmpOptimWrapper be built without CUDA, with torch's GradScaler for the CPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'GradScaler', lambda **kwargs: torch.amp.GradScaler('cpu', **kwargs)
    )


def test_mixed_precision_computes_with_noise_and_skipped_steps_leave_none(amp_on_cpu):
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    wrapper = AmpOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_scale={'init_scale': 1024.0},
        dtype=torch.bfloat16,
    )
    hook = HOOKS.build(smooth(strength=0.5))
    hook.before_train(FakeRunner(model, wrapper))
    data, before = torch.tensor([[1.0, -2.0, 0.5]]), model.weight.detach().clone()
    with wrapper.optim_context(model):
        noisy = model.weight.detach().clone()
        output = model(data)
    # autocast cached the noisy weights, not the clean ones.
    expected = (data.bfloat16() @ noisy.bfloat16().T).float()
    torch.testing.assert_close(output.float(), expected, rtol=1e-2, atol=1e-2)
    assert (noisy - before).abs().max() > 0.2
    wrapper.update_params(output.square().sum() * float('inf'))
    assert wrapper.loss_scaler.get_scale() == 512  # skipped
    assert torch.equal(model.weight, before)
    with wrapper.optim_context(model):
        loss = model(data).square().sum()
    wrapper.update_params(loss)
    moved = (model.weight - before).detach()
    assert not torch.equal(model.weight, before)
    # The update is along the data, as every gradient of this loss is; noise would not be.
    torch.testing.assert_close(
        moved / data, (moved / data)[:, :1].expand(2, 3), rtol=0.02, atol=1e-4
    )


def test_members_of_a_dict_perturb_their_own_parameters(tmp_path):
    class Two(BaseModel):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(72, 1), nn.Linear(72, 1)
            self.seen = []

        def forward(self, image, target, mode='loss'):
            return None

        def train_step(self, data, optim_wrapper):
            losses = {}
            for name in 'ab':
                with optim_wrapper[name].optim_context(self):
                    out = getattr(self, name)(data['image'].flatten(1)).squeeze(1)
                    self.seen.append(copies(self))
                loss = (out - data['target']).square().mean()
                optim_wrapper[name].update_params(loss)
                losses[f'loss_{name}'] = loss
            return losses

    torch.manual_seed(0)
    model = Two()
    wrappers = OptimWrapperDict(
        **{n: OptimWrapper(torch.optim.SGD(getattr(model, n).parameters(), lr=0.0)) for n in 'ab'}
    )
    before = copies(model)
    build(tmp_path, [smooth()], 2, model, optim_wrapper=wrappers).train()
    assert equal(copies(model), before)
    for index, seen in enumerate(model.seen):
        own, other = ('a', 'b') if index % 2 == 0 else ('b', 'a')
        assert not torch.equal(seen[f'{own}.weight'], before[f'{own}.weight'])
        assert torch.equal(seen[f'{other}.weight'], before[f'{other}.weight'])
    noise = [model.seen[i][f'{n}.weight'] - before[f'{n}.weight'] for i, n in ((0, 'a'), (1, 'b'))]
    assert not torch.allclose(*noise, atol=1e-3)
    assert all(type(wrapper) is OptimWrapper for wrapper in wrappers.values())


def test_unfrozen_layers_join(tmp_path):
    spy = Spy()
    unfreeze = Call('after_train_iter', lambda r: r.model.frozen.requires_grad_(True))
    before = spy.net.frozen.weight.detach().clone()
    build(tmp_path, [smooth(), unfreeze], 2, spy.net, lr=0.0).train()
    assert [torch.equal(seen['frozen.weight'], before) for seen in spy.seen] == [True, False]
    assert torch.equal(spy.net.frozen.weight, before)
