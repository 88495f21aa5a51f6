"""Trained rank pruning and group lasso in real trainings."""

import pytest
import torch
from force_runs import ITERATIONS, network, runner, same, samples, weights

from mmext.plugins.force_regularization import (
    ComponentLassoHook,
    TrainedRankPruningHook,
    cut_components,
    decompose,
)
from mmext.plugins.force_regularization.functional import (
    nuclear_subgradient,
    rank_at,
    shrink_groups,
    spectrum,
    truncate,
)

OPTIM = {'optimizer': {'type': 'SGD', 'lr': 0.05}}


def train(work_dir, *hooks, **kwargs):
    run = runner(work_dir, *hooks, optim=kwargs.pop('optim', OPTIM), **kwargs)
    run.train()
    return run


def steps(net, act, lr=0.05):
    """Plain SGD, with ``act(weights, phase)`` around every step."""
    data = samples()
    for i in range(ITERATIONS):
        part = data[4 * i : 4 * i + 4]
        x, y = (torch.stack([d[key] for d in part]) for key in 'xy')
        net.zero_grad()
        net(x, y, mode='loss')['loss'].backward()
        with torch.no_grad():
            act(i, 'before')
            for p in net.parameters():
                p -= lr * p.grad
            act(i, 'after')
    return net


def test_trp_against_its_definition(tmp_path):
    settings = {'nuclear_weight': 0.1, 'interval': 2, 'energy': 0.7, 'include': ['body', 'stem']}
    run = train(tmp_path, TrainedRankPruningHook(**settings))
    net = network()
    chosen = [net.stem.weight, net.body.weight]

    def act(i, phase):
        for p in chosen:
            if phase == 'before':
                p.grad += 0.1 * nuclear_subgradient(p, 0.7)
            elif i % 2:
                p.copy_(truncate(p, 0.7))

    steps(net, act)
    for name, p in net.named_parameters():
        torch.testing.assert_close(run.model.get_parameter(name), p, rtol=2e-4, atol=1e-5)
    # The last step projected.
    matrix = run.model.body.weight.reshape(8, -1)
    assert rank_at(spectrum(matrix), 0.999999) < 8
    plain = train(tmp_path / 'plain')
    assert rank_at(spectrum(plain.model.body.weight.reshape(8, -1)), 0.999999) == 8


def test_trp_counts_optimizer_steps_under_accumulation_and_resumes(tmp_path):
    optim = {**OPTIM, 'accumulative_counts': 2}

    def trp():
        return TrainedRankPruningHook(nuclear_weight=0.1, interval=3, energy=0.7)

    def full_rank(file):
        state = torch.load(tmp_path / 'whole' / file, weights_only=False)['state_dict']
        return rank_at(spectrum(state['body.weight'].reshape(8, -1)), 0.999999) == 8

    whole = train(tmp_path / 'whole', trp(), optim=optim)
    assert full_rank('iter_4.pth') and not full_rank('iter_6.pth')  # step 3 is iteration 6
    part = runner(tmp_path / 'part', trp(), optim=optim, resume=True,
                  load_from=str(tmp_path / 'whole' / 'iter_4.pth'))  # fmt: skip
    part.train()
    assert same(weights(whole.model), weights(part.model))


def low_rank_network():
    net = network()
    decompose(net, ranks={'body': 5}, round_to=1)
    return net


def test_component_lasso_against_its_definition_and_cutting(tmp_path):
    run = train(tmp_path, ComponentLassoHook(strength=4.0), model=low_rank_network())
    net = low_rank_network()
    pair = net.body

    def act(_, phase):
        if phase == 'after':
            basis, mix = shrink_groups(pair.basis.weight, pair.mix.weight, 0.05 * 4.0)
            pair.basis.weight.copy_(basis)
            pair.mix.weight.copy_(mix)

    steps(net, act)
    for name, p in net.named_parameters():
        torch.testing.assert_close(run.model.get_parameter(name), p, rtol=2e-4, atol=1e-6)
    alive = int(pair.alive().sum())
    assert 0 < alive < 5
    x = samples(4)[0]['x'][None]
    before = net(x, None)
    assert cut_components(net) == {'body': alive}
    assert pair.basis.weight.shape[0] == pair.mix.weight.shape[1] == alive
    torch.testing.assert_close(net(x, None), before)


def test_a_pair_of_zeros_keeps_one_component():
    net = low_rank_network()
    net.body.basis.weight.data.zero_()
    before = net(samples(1)[0]['x'][None], None)
    assert cut_components(net) == {'body': 1}
    torch.testing.assert_close(net(samples(1)[0]['x'][None], None), before)


@pytest.mark.parametrize(
    ('build', 'named'),
    [
        (lambda: TrainedRankPruningHook(nuclear_weight=-1), 'nuclear_weight=-1'),
        (lambda: TrainedRankPruningHook(interval=0), 'interval=0'),
        (lambda: TrainedRankPruningHook(energy=2), 'energy=2'),
        (lambda: ComponentLassoHook(strength=0), 'strength=0'),
    ],
)
def test_mistakes_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_lasso_wants_low_rank_pairs(tmp_path):
    with pytest.raises(ValueError, match='no low-rank pair'):
        runner(tmp_path, ComponentLassoHook(strength=0.1)).train()
