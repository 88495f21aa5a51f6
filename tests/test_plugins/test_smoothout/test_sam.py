"""SAM against its definition."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from smoothout_runs import Net, Points, build, copies, equal, parameters

from mmext.engine import phases
from mmext.plugins.smoothout import SAMHook


class Runner:
    def __init__(self, wrapper):
        self.optim_wrapper = wrapper


def batches():
    points = Points()
    return [
        {'image': points.images[part].double(), 'target': points.targets[part].double()}
        for part in (slice(0, 8), slice(8, 16))
    ]


def gradient(net, batch):
    params = [param for param in net.parameters() if param.requires_grad]
    return torch.autograd.grad(net(**batch)['loss'], params)


def by_hand(net, batch, rho):
    """The gradient at ``w + rho g / ||g||``."""
    net = copy.deepcopy(net)
    at_start = gradient(net, batch)
    norm = torch.cat([g.flatten() for g in at_start]).norm()
    params = [param for param in net.parameters() if param.requires_grad]
    for param, g in zip(params, at_start, strict=True):
        param.data += rho * g / norm
    return gradient(net, batch)


@pytest.mark.parametrize('micro', [1, 2])
def test_every_micro_batch_has_the_gradient_at_the_top_of_its_ball(micro):
    torch.manual_seed(0)
    net = Net().double()
    start = copy.deepcopy(net)
    params = [param for param in net.parameters() if param.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(params, lr=1.0), accumulative_counts=micro)
    hook = SAMHook(rho=0.3)
    hook.before_train(Runner(wrapper))
    used = batches()[:micro]
    for batch in used:
        net.train_step(batch, wrapper)
    hook.after_train(Runner(wrapper))
    tops = [by_hand(start, batch, 0.3) for batch in used]
    plain = [gradient(copy.deepcopy(start), batch) for batch in used]
    moved = [a.detach() - b for a, b in zip(start.parameters(), net.parameters(), strict=True)]
    moved = [m for m, p in zip(moved, net.parameters(), strict=True) if p.requires_grad]
    for got, *parts in zip(moved, *tops, strict=True):
        torch.testing.assert_close(got, sum(parts) / micro)
    # The plain gradient is another one, so the comparison above can fail.
    assert not all(
        torch.allclose(got, sum(parts) / micro) for got, *parts in zip(moved, *plain, strict=True)
    )
    assert type(wrapper) is OptimWrapper
    # Statistics of the first pass alone.
    assert net.norm.num_batches_tracked == micro


def test_weights_come_back_bit_for_bit_also_after_an_error(tmp_path):
    runner = build(tmp_path, [dict(type='mmext.SAMHook', rho=0.5)], 3, lr=0.0)
    before = copies(runner.model)
    runner.train()
    assert equal(parameters(copies(runner.model)), parameters(before))
    wrapper = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    hook = SAMHook(rho=0.5)
    hook.before_train(Runner(wrapper))

    def fail():
        raise ValueError('odd')

    phases.attach(wrapper).register('after_backward', fail, 'fail', order=-3000)
    with pytest.raises(ValueError, match='odd'):
        runner.model.train_step({k: v.float() for k, v in batches()[0].items()}, wrapper)
    assert equal(parameters(copies(runner.model)), parameters(before))


def test_a_gradient_that_is_not_finite_moves_nothing():
    torch.manual_seed(0)
    net = Net()
    before = copies(net)
    wrapper = OptimWrapper(torch.optim.SGD(net.parameters(), lr=0.0))
    SAMHook().before_train(Runner(wrapper))
    seen = []
    net.before_loss.append(lambda model: seen.append(parameters(copies(model))))
    batch = {k: v.float() for k, v in batches()[0].items()}
    net.train_step({**batch, 'target': batch['target'] * float('inf')}, wrapper)
    assert len(seen) == 2 and all(equal(part, parameters(before)) for part in seen)


@pytest.mark.parametrize('rho', [0, -1, float('nan'), float('inf')])
def test_rho_must_be_positive(rho):
    with pytest.raises(ValueError, match='positive finite'):
        SAMHook(rho=rho)
