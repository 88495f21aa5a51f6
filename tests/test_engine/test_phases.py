"""Phases against a recorded order of events and against plain PyTorch."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, BaseOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import nn
from torch.nn import functional

from mmext.engine.phases import PHASES, attach, members


class Recorder:
    """Registers a callback on every phase and notes the calls."""

    def __init__(self, wrapper, name='recorder', order=0, events=None):
        self.events = [] if events is None else events
        self.phases = attach(wrapper)
        self.name = name
        for phase in PHASES:
            self.phases.register(phase, self._note(phase), name, order)

    def _note(self, phase):
        def note(*args):
            self.events.append(phase if self.name == 'recorder' else (self.name, phase))
            return nullcontext() if phase == 'around_forward' else None

        return note


def make(seed=0, optimizer=torch.optim.SGD, **kwargs):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    return model, OptimWrapper(optimizer(model.parameters(), lr=0.1), **kwargs)


def step(model, wrapper, data):
    with wrapper.optim_context(model):
        loss = model(data).square().sum()
    wrapper.update_params(loss)


FORWARD = ['before_forward', 'around_forward']
MICRO = [*FORWARD, 'before_backward', 'after_backward']
UPDATE = ['before_update', 'after_update']


def test_order_of_a_plain_step():
    model, wrapper = make()
    events = Recorder(wrapper).events
    model.register_forward_hook(lambda *_: events.append('forward'))
    model.weight.register_hook(lambda _: events.append('gradient'))
    step(model, wrapper, torch.ones(1, 3))
    step(model, wrapper, torch.ones(1, 3))
    one = [*FORWARD, 'forward', 'before_backward', 'gradient', 'after_backward', *UPDATE]
    assert events == one * 2


def test_accumulation_updates_once():
    model, wrapper = make(accumulative_counts=3)
    events = Recorder(wrapper).events
    for _ in range(3):
        step(model, wrapper, torch.ones(1, 3))
    assert events == MICRO * 3 + UPDATE


def test_before_forward_comes_before_no_sync_and_before_autocast():
    events = []

    class Model(nn.Linear):
        @contextmanager
        def no_sync(self):
            events.append('no_sync')
            yield

    class Wrapper(OptimWrapper):
        @contextmanager
        def optim_context(self, model):
            with super().optim_context(model):
                events.append('autocast')
                yield

    model = Model(3, 2)
    wrapper = Wrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    attach(wrapper).register('before_forward', lambda m: events.append(m is model), 'x')
    step(model, wrapper, torch.ones(1, 3))
    assert events == [True, 'no_sync', 'autocast']


def test_contexts_enclose_the_wrappers_own_and_are_left_in_reverse_also_after_an_error():
    events = []

    @contextmanager
    def noted(name):
        events.append(f'enter {name}')
        try:
            yield
        finally:
            events.append(f'leave {name}')

    class Wrapper(OptimWrapper):
        @contextmanager
        def optim_context(self, model):
            with super().optim_context(model), noted('own'):
                yield

    model = nn.Linear(3, 2)
    phases = attach(wrapper := Wrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    phases.register('around_forward', lambda _: noted('second'), 'second', order=1)
    phases.register('around_forward', lambda m: noted('first' if m is model else m), 'first')
    phases.register('before_forward', lambda _: events.append('before'), 'before')
    phases.register('on_exception', lambda _: events.append('reported'), 'report')
    inside = ['before', 'enter first', 'enter second', 'enter own']
    outside = ['leave own', 'leave second', 'leave first']
    step(model, wrapper, torch.ones(1, 3))
    assert events == inside + outside
    events.clear()
    with pytest.raises(KeyError), wrapper.optim_context(model):
        raise KeyError
    assert events == [*inside, *outside, 'reported']
    phases.unregister('second')
    events.clear()
    step(model, wrapper, torch.ones(1, 3))
    assert 'enter first' in events and 'enter second' not in events


def test_two_plugins_follow_order_then_registration():
    model, wrapper = make()
    events = []
    for name, order in [('late', 1), ('first', -1), ('a', 0), ('b', 0)]:
        Recorder(wrapper, name, order, events)
    step(model, wrapper, torch.ones(1, 3))
    expected = [(name, phase) for phase in MICRO + UPDATE for name in ('first', 'a', 'b', 'late')]
    assert events == expected


def test_update_sees_clipped_gradient_and_its_optimizer():
    model, wrapper = make(clip_grad={'max_norm': 0.01})
    norms = []

    def norm(optimizer=None):
        assert optimizer in (None, wrapper.optimizer)
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())

    attach(wrapper).register('after_backward', norm, 'x')
    attach(wrapper).register('before_update', norm, 'x')
    step(model, wrapper, 10 * torch.ones(1, 3))
    assert norms[0] > 1 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_members_of_a_dict_are_separate():
    (_, a), (model_b, b) = make(0), make(1)
    wrappers = OptimWrapperDict(a=a, b=b)
    assert members(wrappers) == {'a': a, 'b': b} and members(a) == {'': a}
    with pytest.raises(TypeError, match='members'):
        attach(wrappers)
    events = []
    for name, wrapper in members(wrappers).items():
        Recorder(wrapper, name, events=events)
    step(model_b, wrappers['b'], torch.ones(1, 3))
    assert events == [('b', phase) for phase in MICRO + UPDATE]


def check_amp(device, dtype):
    def build():
        torch.manual_seed(0)
        model = nn.Linear(3, 2).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scale = {'init_scale': 1024.0}
        return model, AmpOptimWrapper(
            optimizer=optimizer, loss_scale=scale, dtype=dtype, clip_grad={'max_norm': 0.5}
        )

    model, wrapper = build()
    recorder = Recorder(wrapper)
    gradients = {}

    def keep(phase):
        def note(*_):
            gradients[phase] = model.weight.grad.clone()

        return note

    for phase in ('after_backward', 'before_update'):
        recorder.phases.register(phase, keep(phase), 'keep')
    autocast = []
    recorder.phases.register(
        'before_forward', lambda _: autocast.append(torch.is_autocast_enabled(device)), 'autocast'
    )

    data = torch.tensor([[1.0, -2.0, 0.5]], device=device)
    # Oracle: gradient of the same low-precision graph without a scaler.
    twin = copy.deepcopy(model)
    with torch.autocast(device, dtype=dtype):
        twin(data).square().sum().backward()
    norm = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()

    step(model, wrapper, data)
    assert recorder.events == MICRO + UPDATE
    assert autocast == [False]
    torch.testing.assert_close(gradients['after_backward'], twin.weight.grad * 1024)
    clipped = twin.weight.grad * min(1, 0.5 / norm)
    torch.testing.assert_close(gradients['before_update'], clipped, rtol=1e-4, atol=1e-6)

    recorder.events.clear()
    before = model.weight.detach().clone()
    step(model, wrapper, data * float('inf'))
    assert recorder.events == MICRO
    assert torch.equal(model.weight, before)
    assert wrapper.loss_scaler.get_scale() == 512

    # state_dict round trip and the same parameters as a wrapper nobody touched.
    plain_model, plain = build()
    assert type(plain) is AmpOptimWrapper
    step(plain_model, plain, data)
    step(plain_model, plain, data * float('inf'))
    assert torch.equal(plain_model.weight, model.weight)
    state = wrapper.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert state['loss_scaler'] == plain.state_dict()['loss_scaler']
    wrapper.load_state_dict(plain.state_dict())


def test_amp_on_cpu(amp_on_cpu):
    check_amp('cpu', torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_amp_on_cuda():
    check_amp('cuda', torch.float16)


def test_fused_optimizer_under_a_scaler_is_refused(amp_on_cpu):
    model = nn.Linear(3, 2)

    def build(**scale):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        return attach(AmpOptimWrapper(optimizer=optimizer, loss_scale=scale))

    phases = build()
    phases.register('after_backward', lambda: None, 'x')
    with pytest.raises(ValueError, match='fused=False'):
        phases.register('before_update', lambda _: None, 'x')
    build(enabled=False).register('before_update', lambda _: None, 'x')


def test_wrapper_that_replaces_its_optimizer():
    """Apex may return another optimizer object inside its first optim_context."""

    class Replacing(OptimWrapper):
        @contextmanager
        def optim_context(self, model):
            with super().optim_context(model):
                self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                yield

    model = nn.Linear(3, 2)
    old = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = Replacing(old)
    events = Recorder(wrapper).events
    step(model, wrapper, torch.ones(1, 3))
    assert events == MICRO + UPDATE
    assert not old._optimizer_step_pre_hooks and not old._optimizer_step_post_hooks


def test_class_is_cached_named_and_still_an_instance():
    class Special(OptimWrapper):
        def own_method(self):
            return 'own'

    wrappers = [Special(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)) for _ in range(2)]
    for wrapper in wrappers:
        phases = attach(wrapper)
        assert attach(wrapper) is phases
    assert type(wrappers[0]) is type(wrappers[1])
    assert isinstance(wrappers[0], Special) and wrappers[0].own_method() == 'own'
    assert 'PhasedSpecial' in repr(wrappers[0])


def test_error_in_forward_backward_or_callback_is_reported_once_and_raised():
    model, wrapper = make()
    recorder = Recorder(wrapper)
    seen = []
    recorder.phases.register('on_exception', seen.append, 'seen')

    error = KeyboardInterrupt()
    for _ in range(2):
        # The same object twice: two events, not one.
        with pytest.raises(KeyboardInterrupt), wrapper.optim_context(model):
            raise error
    assert recorder.events == [*FORWARD, 'on_exception'] * 2
    assert seen == [error] * 2

    recorder.events.clear()
    with pytest.raises(RuntimeError, match='does not require grad'):
        wrapper.update_params(torch.zeros(()))
    assert recorder.events == ['before_backward', 'on_exception']

    recorder.events.clear()
    # MMEngine recommends this form for accumulation: the error passes backward and context.
    no_gradient = pytest.raises(RuntimeError, match='does not require grad')
    with no_gradient, wrapper.optim_context(model):
        wrapper.update_params(torch.zeros(()))
    assert recorder.events == [*FORWARD, 'before_backward', 'on_exception']

    def fail(_):
        raise OSError('callback')

    recorder.phases.register('before_forward', fail, 'fail')
    with pytest.raises(OSError, match='callback'):
        step(model, wrapper, torch.ones(1, 3))
    assert isinstance(seen[-1], OSError)
    assert recorder.phases._reported is None


def test_error_in_one_handler_hides_neither_error_nor_other_handlers():
    model, wrapper = make()
    phases, seen = attach(wrapper), []

    def fail(_):
        raise OSError('handler')

    phases.register('on_exception', fail, 'fail')
    phases.register('on_exception', seen.append, 'seen')
    with pytest.raises(KeyError), wrapper.optim_context(model):
        raise KeyError
    assert len(seen) == 1


def test_registration_errors_say_what_is_wrong():
    _, wrapper = make()
    phases = attach(wrapper)
    phases.register('after_backward', lambda: None, 'x')
    with pytest.raises(ValueError, match='"x" has already a callback for after_backward'):
        phases.register('after_backward', lambda: None, 'x')
    with pytest.raises(ValueError, match='before_forward'):
        phases.register('before_step', lambda: None, 'x')
    with pytest.raises(TypeError, match='callable'):
        phases.register('before_forward', None, 'x')
    phases.unregister('unknown')
    phases.unregister('x')
    with pytest.raises(RuntimeError, match='attach'):
        phases.register('after_backward', lambda: None, 'x')


def test_foreign_wrappers_are_refused():
    # Abstract methods are only declared to be there.
    names = dict.fromkeys(BaseOptimWrapper.__abstractmethods__)
    engine = type('EngineWrapper', (BaseOptimWrapper,), names)(
        torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    )
    for function in (attach, members):
        with pytest.raises(TypeError, match='EngineWrapper.*DeepSpeed'):
            function(engine)


def test_fsdp_is_refused_at_forward(monkeypatch):
    class Sharded(nn.Module):
        pass

    monkeypatch.setattr(torch.distributed.fsdp, 'FullyShardedDataParallel', Sharded)
    _, wrapper = make()
    events = Recorder(wrapper).events
    with pytest.raises(TypeError, match='FSDP'), wrapper.optim_context(nn.Sequential(Sharded())):
        pass
    assert events == []


@pytest.mark.parametrize('optimizer', [torch.optim.SGD, torch.optim.AdamW])
def test_detached_wrapper_has_no_trace_and_trains_alike(optimizer):
    (model, wrapper), (plain_model, plain) = (make(optimizer=optimizer) for _ in range(2))
    before = dict(vars(wrapper))
    first, second = (Recorder(wrapper, name) for name in 'ab')
    data = torch.randn(8, 1, 3)
    for sample in data[:4]:
        step(model, wrapper, sample)
    first.phases.unregister('a')
    assert type(wrapper) is not OptimWrapper
    count = len(first.events)
    step(model, wrapper, data[4])
    assert len(first.events) == count and len(second.events) == 5 * 6
    second.phases.unregister('b')
    assert type(wrapper) is OptimWrapper
    assert vars(wrapper).keys() == before.keys()
    assert not wrapper.optimizer._optimizer_step_pre_hooks
    assert not wrapper.optimizer._optimizer_step_post_hooks
    for sample in data[5:]:
        step(model, wrapper, sample)
    for sample in data:
        step(plain_model, plain, sample)
    assert all(map(torch.equal, model.parameters(), plain_model.parameters()))
    assert attach(wrapper) is not first.phases


@pytest.mark.parametrize('phase', PHASES[:-1])
def test_callback_may_remove_itself(phase):
    model, wrapper = make()
    calls = []

    def once(*_):
        calls.append(phase)
        attach(wrapper).unregister('once')
        return nullcontext() if phase == 'around_forward' else None

    attach(wrapper).register(phase, once, 'once')
    step(model, wrapper, torch.ones(1, 3))
    assert type(wrapper) is OptimWrapper
    assert not wrapper.optimizer._optimizer_step_pre_hooks
    step(model, wrapper, torch.ones(1, 3))
    assert calls == [phase]


def test_callback_that_replaces_itself_during_an_update_stays():
    model, wrapper = make()
    calls, phases = [], attach(wrapper)

    def replace(*_):
        phases.unregister('x')
        phases.register('after_update', lambda _: calls.append('second'), 'x')

    phases.register('before_update', replace, 'x')
    step(model, wrapper, torch.ones(1, 3))
    step(model, wrapper, torch.ones(1, 3))
    assert calls == ['second'] * 2


class Noisy(BaseModel):
    """A layer, batch norm and dropout under the loss of MMEngine's models."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 8), nn.BatchNorm1d(8)

    def forward(self, inputs, mode='loss'):
        return {'loss': functional.dropout(self.norm(self.layer(inputs)), 0.5).square().mean()}


def two_passes(wrapper, change=lambda: None, **options):
    """Register a method that calls ``change`` and takes the loss of a second pass."""
    phases, losses, batches = attach(wrapper), [], []

    def again(loss):
        batches.append(phases.batch)
        change()
        losses.append((loss.item(), phases.recompute(**options)))
        return losses[-1][1]

    phases.register('before_backward', again, 'again')
    return losses, batches


def noisy(**options):
    torch.manual_seed(0)
    model = Noisy()
    return model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), **options)


DATA = {'inputs': torch.arange(12.0).reshape(4, 3).sin()}


def test_recompute_repeats_batch_and_draws_and_leaves_the_statistics():
    (model, wrapper), (plain_model, plain) = noisy(), noisy()
    losses, batches = two_passes(wrapper)
    for _ in range(3):
        torch.manual_seed(4)
        model.train_step(DATA, wrapper)
        drawn = torch.rand(())
        torch.manual_seed(4)
        plain_model.train_step(DATA, plain)
        assert drawn == torch.rand(())
    # Unchanged weights: the second pass is the first, and the training that of one pass.
    assert [first for first, _ in losses] == [second.item() for _, second in losses]
    assert len({first for first, _ in losses}) == 3
    states = [m.state_dict() for m in (model, plain_model)]
    assert states[0]['norm.num_batches_tracked'] == 3
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert all(torch.equal(batch['inputs'], DATA['inputs']) for batch in batches)
    assert attach(wrapper).batch is None and '_run_forward' not in vars(model)


def test_gradient_is_that_at_the_weights_of_the_second_pass():
    model, wrapper = noisy(accumulative_counts=2)

    def change():
        with torch.no_grad():
            model.layer.weight.mul_(2)

    losses, _ = two_passes(wrapper, change)
    reference = copy.deepcopy(model)
    change_of_reference = reference.layer.weight.data.mul_(2)
    torch.manual_seed(4)
    reference(**DATA)['loss'].backward()
    torch.manual_seed(4)
    model.train_step(DATA, wrapper)
    assert torch.equal(model.layer.weight, change_of_reference)
    # One of two micro-batches.
    torch.testing.assert_close(model.layer.weight.grad, reference.layer.weight.grad / 2)
    assert losses[0][0] != losses[0][1].item()


@pytest.mark.parametrize('batch_norm, count', [('keep', 1), ('update', 2)])
def test_running_statistics_are_as_the_method_wants(batch_norm, count):
    model, wrapper = noisy()
    two_passes(wrapper, batch_norm=batch_norm)
    model.train_step(DATA, wrapper)
    assert model.norm.num_batches_tracked == count


def test_second_pass_has_the_precision_of_the_first(amp_on_cpu):
    model, _ = noisy()
    wrapper = AmpOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        dtype='bfloat16',
        loss_scale={'init_scale': 1024.0},
    )
    kinds, gradients = [], []
    model.layer.register_forward_hook(lambda *args: kinds.append(args[2].dtype))
    phases = attach(wrapper)

    def again(loss):
        gradients.extend(phases.gradient(loss, [*model.parameters()]))
        return phases.recompute()

    phases.register('before_backward', again, 'again')
    phases.register('before_update', lambda _: gradients.append(model.layer.weight.grad), 'seen')
    model.train_step(DATA, wrapper)
    assert kinds == [torch.bfloat16] * 2
    assert gradients[0].shape == gradients[-1].shape
    torch.testing.assert_close(gradients[0], gradients[-1])


def test_gradients_of_unused_parameters_are_zero_and_grad_is_left_alone():
    model, wrapper = noisy()
    unused = nn.Parameter(torch.ones(2))
    seen = []
    phases = attach(wrapper)

    def again(loss):
        seen.extend(phases.gradient(loss, [model.layer.bias, unused]))
        assert model.layer.bias.grad is None
        return phases.recompute()

    phases.register('before_backward', again, 'again')
    model.train_step(DATA, wrapper)
    assert seen[0].shape == (8,) and torch.equal(seen[1], torch.zeros(2))


def test_a_step_without_a_known_forward_cannot_be_repeated():
    model, wrapper = make()
    two_passes(wrapper)
    with pytest.raises(RuntimeError, match='train_step is MMEngine'):
        step(model, wrapper, torch.ones(1, 3))
    with pytest.raises(ValueError, match="'keep' or 'update'"):
        attach(wrapper).recompute(batch_norm='none')


def test_a_failed_second_pass_leaves_model_and_wrapper_as_they_were():
    model, wrapper = noisy()
    calls = []

    def fail_once():
        calls.append(1)
        if len(calls) == 1:
            raise ValueError('odd')

    two_passes(wrapper, fail_once)
    with pytest.raises(ValueError, match='odd'):
        model.train_step(DATA, wrapper)
    assert '_run_forward' not in vars(model) and attach(wrapper).batch is None
    model.train_step(DATA, wrapper)
    assert model.norm.num_batches_tracked == 2
