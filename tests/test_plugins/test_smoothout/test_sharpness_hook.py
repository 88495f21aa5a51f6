"""SharpnessHook in a run: what it measures, and that it changes nothing."""

import pytest
import torch
from smoothout_runs import Net, Points, build, copies, equal

from mmext.plugins.smoothout import SharpnessHook
from mmext.plugins.smoothout.functional import expected_sharpness, keskar_sharpness
from mmext.registry import HOOKS

SETTINGS = {'type': 'mmext.SharpnessHook', 'strength': 0.05, 'batches': 8, 'draws': 3,
            'interval': 2, 'by_epoch': False}  # fmt: skip


def test_a_run_that_is_measured_is_the_same_run(tmp_path):
    noise = {'type': 'mmext.SmoothOutHook', 'strength': 0.05}
    plain, measured = (
        build(tmp_path / name, [noise, *hooks], 4, validate=True)
        for name, hooks in (('plain', []), ('measured', [SETTINGS]))
    )
    plain.train()
    measured.train()
    assert equal(copies(plain.model), copies(measured.model))
    modes = ([m.training for m in run.model.modules()] for run in (plain, measured))
    assert next(modes) == next(modes)
    for name in ('expected', 'keskar'):
        values, counts = measured.message_hub.get_scalar(f'train/sharpness/{name}').data
        assert len(values) == len(counts) == 2 and values[0] != values[1]


def test_measures_are_those_of_the_validation_loss(tmp_path):
    runner = build(tmp_path, max_iters=1, validate=True)
    net, points = runner.model.train(), Points()
    state, before = torch.get_rng_state(), copies(net)
    measured = SharpnessHook(strength=1e-3, draws=50, batches=8).measure(runner)
    assert torch.equal(torch.get_rng_state(), state) and equal(copies(net), before)
    assert net.norm.training and all(param.grad is None for param in net.parameters())
    net.eval()
    params = [p for p in net.parameters() if p.requires_grad]

    def loss():
        return net(points.images, points.targets)['loss']

    generator = torch.Generator().manual_seed(1)
    expected = expected_sharpness(loss, params, 1e-3, 300, generator=generator)
    spread = 3 * 1e-3 / 3**0.5 * torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss(), params)]
    ).norm().item()  # fmt: skip
    assert abs(measured['expected'] - expected) < spread * (50**-0.5 + 300**-0.5)
    assert measured['keskar'] == pytest.approx(keskar_sharpness(loss, params), rel=1e-3)
    assert measured['keskar'] > 0


def test_epochs_are_the_default_interval(tmp_path):
    hook = {**SETTINGS, 'by_epoch': True, 'batches': 1}
    loops = {'train_cfg': {'by_epoch': True, 'max_epochs': 2}}
    loader = {'dataset': Points(), 'batch_size': 32, 'num_workers': 0,
              'collate_fn': {'type': 'default_collate'},
              'sampler': {'type': 'DefaultSampler', 'shuffle': True}}  # fmt: skip
    runner = build(
        tmp_path, [hook], model=Net(), validate=True, train_dataloader=loader,
        default_hooks={'checkpoint': None}, log_processor={'by_epoch': True}, **loops,
    )  # fmt: skip
    runner.train()
    assert len(runner.message_hub.get_scalar('train/sharpness/keskar').data[0]) == 1


@pytest.mark.parametrize(
    'wrong',
    [{'strength': 0}, {'draws': 0}, {'epsilon': 0.0}, {'max_iters': 0}, {'batches': 0},
     {'interval': 0}, {'adapt': 'layer'}],
)  # fmt: skip
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))}='):
        HOOKS.build({**SETTINGS, **wrong})


def test_validation_data_are_needed(tmp_path):
    with pytest.raises(ValueError, match='val_dataloader'):
        build(tmp_path, [SETTINGS], 1).train()
