"""The hook in real trainings, against optimizers written by hand."""

import logging
from pathlib import Path

import pytest
import torch
from force_runs import ITERATIONS, network, runner, same, samples, weights
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.optim.optimizer import amp_optimizer_wrapper

from mmext.plugins.force_regularization import ForceRegularizationHook
from mmext.plugins.force_regularization.functional import force

SGD = {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9, 'weight_decay': 0.01}
LAYERS = ('stem', 'body')


def hook(**kwargs):
    return ForceRegularizationHook(**{'strength': 0.2, **kwargs})


def train(work_dir, *hooks, **kwargs):
    run = runner(work_dir, *hooks, **kwargs)
    run.train()
    return run


def batches():
    data = samples()
    for i in range(0, len(data), 4):
        part = data[i : i + 4]
        yield torch.stack([d['x'] for d in part]), torch.stack([d['y'] for d in part])


def by_hand(
    net, kind, strength, counts=1, clip=None, lr=0.05, momentum=0.9, decay=0.01, until=99,
    adaptive=False, steps=ITERATIONS,
):  # fmt: skip
    """The author's order: average, clip, weight decay, force, momentum."""
    history = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    sums = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for index, (x, y) in enumerate(batches()):
        if index >= steps:
            break
        net.zero_grad()
        net(x, y, mode='loss')['loss'].backward()
        for name, p in net.named_parameters():
            sums[name] += p.grad / counts
        if (index + 1) % counts:
            continue
        scale = 1.0
        if clip:
            norm = torch.stack([g.norm() for g in sums.values()]).norm()
            scale = min(1.0, clip / (float(norm) + 1e-6))
        with torch.no_grad():
            for name, p in net.named_parameters():
                gradient = scale * sums[name]
                step = gradient + decay * p
                layer = name.partition('.')[0]
                if layer in LAYERS and p.dim() == 4 and index < until:
                    module = getattr(net, layer)
                    pull = force(p, kind, module.groups)
                    factor = strength
                    if adaptive:
                        factor = strength * gradient.norm() / pull.norm()
                    step = step - factor * pull
                history[name] = momentum * history[name] + step
                p -= lr * history[name]
                sums[name].zero_()
    return net


def close(run, net, **tolerance):
    tolerance = {'rtol': 2e-5, 'atol': 2e-6, **tolerance}
    for (name, p), (_, q) in zip(run.model.named_parameters(), net.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.parametrize(
    ('kind', 'counts', 'clip', 'groups'),
    [('l1', 1, None, 1), ('l2', 1, 0.05, 1), ('l1', 2, 0.05, 2), ('l2', 3, None, 2)],
)
def test_order_of_operations_is_the_authors(tmp_path, kind, counts, clip, groups):
    optim = {'optimizer': SGD, 'accumulative_counts': counts}
    if clip:
        optim['clip_grad'] = {'max_norm': clip}
    run = train(tmp_path, hook(kind=kind), model=network(groups=groups), optim=optim)
    expected = by_hand(network(groups=groups), kind, 0.2, counts, clip)
    close(run, expected)
    # The force is no small part of what was compared.
    without = by_hand(network(groups=groups), kind, 0.0, counts, clip)
    moved = (expected.body.weight - without.body.weight).norm()
    assert moved > 0.02 * without.body.weight.norm()


def test_until_adaptive_and_repulsion(tmp_path):
    optim = {'optimizer': SGD}
    run = train(tmp_path / 'a', hook(until=3, strength=-0.2), optim=optim)
    close(run, by_hand(network(), 'l1', -0.2, until=3))
    run = train(tmp_path / 'b', hook(mode='adaptive', strength=0.7), optim=optim)
    close(run, by_hand(network(), 'l1', 0.7, adaptive=True))


def test_include_and_exclude_choose_layers(tmp_path):
    acting = hook(include=['body', 'head'], exclude=['y$'])
    train(tmp_path, acting)
    assert list(acting.layers) == ['head']
    acting = hook()
    runner(tmp_path / 'b', acting).train()
    assert list(acting.layers) == ['stem', 'body']  # depthwise filters have no fellows


@pytest.mark.parametrize(
    ('kwargs', 'named'),
    [
        ({'include': ['bodi']}, "include: 'bodi' matches no layer.*body"),
        ({'exclude': ['nothing']}, "exclude: 'nothing'"),
        ({'include': ['(']}, 'no regular expression'),
        ({'exclude': ['.']}, 'no layer is left'),
        ({'include': 'body'}, r"\['body'\]"),
        ({'strength': float('nan')}, 'strength=nan'),
        ({'kind': 'l3'}, "kind='l3'"),
        ({'mode': 'auto'}, "mode='auto'"),
        ({'mode': 'adaptive', 'decoupled': True}, 'decoupled=False'),
        ({'until': -1}, 'until=-1'),
        ({'energy': 0.0}, 'energy=0.0'),
        ({'interval': 0}, 'interval=0'),
    ],
)
def test_mistakes_are_named(tmp_path, kwargs, named):
    with pytest.raises(ValueError, match=named):
        run = runner(tmp_path, ForceRegularizationHook(**{'strength': 0.1, **kwargs}))
        run.train()


@pytest.mark.parametrize('kind', ['Adam', 'AdamW'])
def test_adam_takes_the_force_beside_its_own_step(tmp_path, kind):
    optim = {'optimizer': {'type': kind, 'lr': 0.01, 'weight_decay': 0.1}}
    run = train(tmp_path, hook(), optim=optim)
    net = network()
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.01, weight_decay=0.1)
    for x, y in batches():
        optimizer.zero_grad()
        net(x, y, mode='loss')['loss'].backward()
        with torch.no_grad():
            for layer in LAYERS:
                weight = getattr(net, layer).weight
                weight += 0.01 * 0.2 * force(weight)
        optimizer.step()
    close(run, net)


def test_decoupled_can_be_chosen_either_way(tmp_path):
    optim = {'optimizer': {'type': 'Adam', 'lr': 0.01}}
    coupled = weights(train(tmp_path / 'a', hook(decoupled=False), optim=optim).model)
    decoupled = weights(train(tmp_path / 'b', hook(), optim=optim).model)
    assert not torch.allclose(coupled['body.weight'], decoupled['body.weight'], atol=1e-4)
    optim = {'optimizer': {'type': 'SGD', 'lr': 0.05}}
    coupled = weights(train(tmp_path / 'c', hook(), optim=optim).model)
    decoupled = weights(train(tmp_path / 'd', hook(decoupled=True), optim=optim).model)
    # Without momentum and weight decay the two are one step.
    for name, value in coupled.items():
        torch.testing.assert_close(value, decoupled[name], rtol=1e-4, atol=1e-6)


def test_resume_is_exact_and_nothing_is_left_behind(tmp_path):
    optim = {'optimizer': SGD, 'accumulative_counts': 2}
    whole = train(tmp_path / 'whole', hook(until=5), optim=optim)
    part = runner(tmp_path / 'part', hook(until=5), optim=optim, resume=True,
                  load_from=str(tmp_path / 'whole' / 'iter_4.pth'))  # fmt: skip
    part.train()
    assert same(weights(whole.model), weights(part.model))
    assert type(whole.optim_wrapper) is OptimWrapper
    assert not whole.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_two_hooks_serve_two_sets_of_layers(tmp_path):
    both = train(tmp_path / 'a', hook(include=['stem']), hook(include=['body'])).model
    one = train(tmp_path / 'b', hook()).model
    assert same(weights(both), weights(one))


def test_ranks_are_logged_and_a_collapse_is_warned_of(tmp_path):
    regular = hook(strength=3.0, kind='l2', interval=2)
    run = runner(tmp_path, regular)
    run.logger.setLevel(logging.INFO)
    texts = []

    class Keep(logging.Handler):
        def emit(self, record):
            texts.append((record.levelname, record.getMessage()))

    run.logger.addHandler(Keep())
    run.train()
    reports = [text for level, text in texts if 'ranks at 95 % energy' in text]
    assert len(reports) == 1 + ITERATIONS // 2
    assert 'body 8/8' in reports[0] or 'body 7/8' in reports[0]
    warnings = [text for level, text in texts if level == 'WARNING' and 'collapsed' in text]
    assert sorted(text.split()[4][:-1] for text in warnings) == ['body', 'stem']  # once each
    assert 'train/rank/mean_share' in run.message_hub.log_scalars
    assert 'rank/body' in next(tmp_path.rglob('scalars.json')).read_text()
    assert all('loss' not in key for key in run.message_hub.log_scalars if 'rank' in key)


def test_members_of_a_wrapper_dict_push_their_own_layers():
    nets = {name: network(seed) for seed, name in enumerate('ab')}
    wrappers = {
        n: OptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1)) for n, net in nets.items()
    }
    model = torch.nn.ModuleDict(nets)
    acting = hook(include=['body'])
    fake = type('Run', (), {})()
    fake.model, fake.optim_wrapper, fake.iter = model, OptimWrapperDict(**wrappers), 0
    acting._report = lambda *args: None
    acting.before_train(fake)
    before = {n: net.body.weight.detach().clone() for n, net in nets.items()}
    x, y = next(batches())
    gradient = torch.autograd.grad(nets['a'](x, y, mode='loss')['loss'], nets['a'].body.weight)[0]
    wrappers['a'].update_params(nets['a'](x, y, mode='loss')['loss'])
    expected = before['a'] - 0.1 * (gradient - 0.2 * force(before['a']))
    torch.testing.assert_close(nets['a'].body.weight.detach(), expected)
    assert torch.equal(nets['b'].body.weight, before['b'])
    acting.after_train(fake)
    assert type(wrappers['a']) is OptimWrapper


def test_two_ranks_stay_identical(two_ranks, tmp_path):
    two_ranks(Path(__file__).with_name('force_rank_worker.py'), tmp_path)
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert first['seen'] != second['seen']
    assert same(first['state'], second['state'])


def check_amp(device, dtype):
    """The force is neither scaled nor applied to a skipped step."""
    net = network().to(device)
    wrapper = AmpOptimWrapper(
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        loss_scale={'init_scale': 1024.0},
        dtype=dtype,
    )
    acting = hook(include=['body'])
    fake = type('Run', (), {})()
    fake.model, fake.optim_wrapper, fake.iter = net, wrapper, 0
    acting._report = lambda *args: None
    acting.before_train(fake)
    x, y = (part.to(device) for part in next(batches()))

    def low_precision():
        with wrapper.optim_context(net):
            return net(x, y, mode='loss')['loss']

    gradient = torch.autograd.grad(low_precision(), net.body.weight)[0]
    before = net.body.weight.detach().clone()
    wrapper.update_params(low_precision())
    expected = before - 0.1 * (gradient - 0.2 * force(before))
    torch.testing.assert_close(net.body.weight.detach(), expected, rtol=1e-3, atol=1e-5)
    before = net.body.weight.detach().clone()
    wrapper.update_params(low_precision() * float('inf'))
    assert torch.equal(net.body.weight, before)


def test_amp_on_cpu(monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp_optimizer_wrapper,
        'GradScaler',
        lambda **kwargs: torch.amp.GradScaler('cpu', **kwargs),
    )
    check_amp('cpu', torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_amp_on_cuda():
    check_amp('cuda', torch.float16)
