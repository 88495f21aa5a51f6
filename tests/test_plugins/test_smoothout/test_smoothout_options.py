"""Options of SmoothOutHook, and what it refuses."""

import pytest
import torch
from smoothout_runs import Net, Spy, build, copies, equal, smooth
from torch import nn

from mmext.plugins.smoothout import SmoothOutHook, select_parameters


def test_schedule_counts_optimizer_steps(tmp_path):
    spy = Spy()
    runner = build(
        tmp_path, [smooth(schedule='anneal', exclude=['bias'])], 6, spy.net,
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.0}, 'accumulative_counts': 2},
    )  # fmt: skip
    before = spy.net.first.weight.detach().clone()
    runner.train()
    logged = runner.message_hub.get_scalar('train/smoothout/strength').data[0]
    expected = [0.05 * (1 + t) ** -0.275 for t in (0, 0, 1, 1, 2, 2)]
    assert logged == pytest.approx(expected)
    for seen, strength in zip(spy.seen, expected, strict=True):
        assert 0.6 * strength < (seen['first.weight'] - before).abs().max() <= strength + 1e-6
        assert torch.equal(seen['head.bias'], spy.net.head.bias)


def test_clean_fraction_is_the_share_of_clean_forwards(tmp_path):
    spy = Spy()
    before = spy.net.first.weight.detach().clone()
    quiet = {'logger': None, 'checkpoint': None}
    build(tmp_path, [smooth(clean_fraction=0.4)], 100, spy.net, 0.0, default_hooks=quiet).train()
    clean = sum(torch.equal(seen['first.weight'], before) for seen in spy.seen)
    assert len(spy.seen) == 100 and 22 <= clean <= 58  # 40 +- 3.6 standard deviations


def test_distribution_and_norms_are_options(tmp_path):
    spy = Spy()
    before = copies(spy.net)
    build(
        tmp_path, [smooth(distribution='normal', exclude_norm=False)], 12, spy.net, lr=0.0
    ).train()
    moved = torch.stack([seen['norm.weight'] - before['norm.weight'] for seen in spy.seen])
    assert 0.03 < moved.std() < 0.07
    far = torch.stack([(s['first.weight'] - before['first.weight']).abs().max() for s in spy.seen])
    assert far.max() > 0.1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'strength': -0.1}, 'strength=-0.1'),
        ({'strength': float('nan')}, 'strength=nan'),
        ({'adapt': 'layer'}, "adapt='layer'"),
        ({'distribution': 'cauchy'}, "distribution='cauchy'"),
        ({'schedule': 'cosine'}, "schedule='cosine'"),
        ({'exclude': 'head'}, r"list of expressions: \['head'\]"),
        ({'clean_fraction': 1.0}, 'clean_fraction=1.0'),
        ({'recalibrate_bn': -1}, 'recalibrate_bn=-1'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SmoothOutHook(**{'strength': 0.1, **arguments})


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            {'exclude': ['backbone']},
            "'backbone' matches no parameter; names look like: conv.weight",
        ),
        ({'exclude': ['(']}, 'no regular expression'),
        ({'exclude': ['.*']}, 'no parameter is left'),
    ],
)
def test_wrong_selection_is_an_error_before_the_first_iteration(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, [smooth(**arguments)]).train()


def test_complex_parameters_are_refused():
    net = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(TypeError, match="'weight' is complex"):
        select_parameters(net)


def test_two_hooks_are_refused(tmp_path):
    with pytest.raises(ValueError, match='"smoothout" has already'):
        build(tmp_path, [smooth(), smooth()]).train()


def test_fsdp_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed.fsdp, 'FullyShardedDataParallel', nn.Conv2d)
    net = Net()
    before = copies(net)
    with pytest.raises(TypeError, match='FSDP.*shards'):
        build(tmp_path, [smooth()], model=net).train()
    assert equal(copies(net), before)
