"""Numbers that follow from the length of a training, and a host's epochs as iterations."""

import pytest
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from torch.optim import SGD

from mmext.plugins.cst.host_schedule import to_iterations
from mmext.plugins.cst.schedule import schedule


@pytest.mark.parametrize(
    'iterations, burn_in, ramp_up, momentum',
    [
        (1, 0, 0, 0.1),
        (10, 5, 1, 0.1),
        (950, 475, 118, 4 / 475),
        (1400, 700, 175, 4 / 700),
        (180000, 2000, 1000, 0.0004),
    ],
)
def test_what_is_auto_follows_from_the_length(iterations, burn_in, ramp_up, momentum):
    found = schedule(iterations)
    assert (found.burn_in, found.ramp_up) == (burn_in, ramp_up)
    assert found.momentum == pytest.approx(momentum)


def test_what_is_given_stays_and_the_rest_follows_from_it():
    found = schedule(1000, burn_in=200)
    assert (found.burn_in, found.ramp_up) == (200, 200) and found.momentum == 4 / 800
    found = schedule(1000, ramp_up=0, momentum=0.3)
    assert (found.burn_in, found.ramp_up, found.momentum) == (500, 0, 0.3)
    # All of the training: nothing is divided by zero.
    assert schedule(10, burn_in=10).momentum == 0.1


def host(**changes):
    cfg = dict(
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=2),
        train_dataloader=dict(batch_size=2, dataset=dict(type='CocoDataset')),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=500),
            dict(type='MultiStepLR', milestones=[8, 11], gamma=0.1),
        ],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3)),
        log_processor=dict(type='LogProcessor', by_epoch=True, window_size=7),
    )
    return Config({**cfg, **changes})


def test_epochs_become_steps_over_all_images_at_the_batch_size_of_the_host():
    cfg = host()
    told = to_iterations(cfg, 241)
    assert told == '12 epochs of 121 steps with 2 images are 1452 iterations'
    assert cfg.train_cfg == dict(
        type='mmext.ResumableIterTrainLoop', max_iters=1452, val_interval=242, val_begin=121
    )
    warm_up, steps = cfg.param_scheduler
    assert warm_up == dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=500)
    assert steps == dict(
        type='MultiStepLR', milestones=[968, 1331], gamma=0.1, by_epoch=False, end=1452
    )
    assert cfg.default_hooks.checkpoint == dict(type='CheckpointHook', interval=363, by_epoch=False)
    assert cfg.default_hooks.logger.log_metric_by_epoch is False
    assert cfg.log_processor == dict(type='LogProcessor', by_epoch=False, window_size=7)


def test_ranks_and_repeated_datasets_count(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    repeated = dict(type='RepeatDataset', times=3, dataset=dict(type='CocoDataset'))
    cfg = host(train_dataloader=dict(batch_size=2, dataset=repeated))
    assert to_iterations(cfg, 240) == (
        '12 epochs of 90 steps with 2 images on each of 4 ranks are 1080 iterations'
    )


def test_a_number_of_iterations_stretches_the_epochs():
    cfg = host(train_cfg=dict(max_epochs=12, max_iters=30, dynamic_intervals=[(10, 1)]))
    told = to_iterations(cfg, 240)
    assert told == '30 iterations, to which the 12 epochs of the config are stretched'
    assert cfg.train_cfg.max_iters == 30 and cfg.train_cfg.val_interval == 2
    assert cfg.train_cfg.dynamic_intervals == [(25, 2)]
    assert cfg.param_scheduler[1].milestones == [20, 28]


def test_a_scheduler_that_rounds_to_nothing_is_left_out():
    schedulers = [dict(type='QuadraticWarmupLR', end=1), dict(type='ConstantLR', begin=1, end=12)]
    cfg = host(train_cfg=dict(max_epochs=12, max_iters=3), param_scheduler=schedulers)
    to_iterations(cfg, 240)
    assert [one.type for one in cfg.param_scheduler] == ['ConstantLR']


def test_a_schedule_in_iterations_stays():
    for loop in (dict(type='IterBasedTrainLoop'), dict(by_epoch=False)):
        cfg = host(train_cfg=dict(loop, max_iters=90, val_interval=30))
        before = cfg.param_scheduler, cfg.default_hooks
        assert to_iterations(cfg, 240) == '90 iterations, as in the config'
        assert cfg.train_cfg == dict(
            type='mmext.ResumableIterTrainLoop', max_iters=90, val_interval=30
        )
        assert (cfg.param_scheduler, cfg.default_hooks) == before


def test_another_loop_is_refused():
    with pytest.raises(ValueError, match="'MyLoop'.*EpochBasedTrainLoop or IterBased"):
        to_iterations(host(train_cfg=dict(type='MyLoop')), 240)


def rates(scheduler, count):
    """Learning rates of the first ``count`` steps."""
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    built = PARAM_SCHEDULERS.build(dict(scheduler), default_args={'optimizer': optimizer})
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        built.step()
    return found


def converted(settings, epochs, steps):
    loader = dict(batch_size=1, dataset={})
    cfg = host(train_cfg=dict(max_epochs=epochs), param_scheduler=settings, train_dataloader=loader)
    to_iterations(cfg, steps)
    return cfg.param_scheduler[0].to_dict()


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='MultiStepLR', milestones=[2, 4], gamma=0.1),
        dict(type='StepLR', step_size=2, gamma=0.1, end=5),
        dict(type='CosineAnnealingLR', T_max=4, begin=1, end=5, convert_to_iter_based=True),
        dict(type='OneCycleLR', eta_max=2.0, total_steps=6),
        dict(type='PolyLR', power=1.0, eta_min=0.0),
        dict(type='LinearLR', start_factor=0.1, begin=0, end=3),
    ],
    ids=lambda settings: settings['type'],
)
def test_schedulers_are_those_that_mmengine_would_convert(settings):
    steps, epochs = 20, 6
    theirs = {'end': epochs, **settings, 'convert_to_iter_based': True, 'epoch_length': steps}
    assert rates(converted(settings, epochs, steps), 120) == rates(theirs, 120)


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='ExponentialLR', gamma=0.5),
        dict(type='CosineRestartLR', periods=[3, 3], restart_weights=[1, 0.5], eta_min=0),
    ],
    ids=lambda settings: settings['type'],
)
def test_schedulers_that_mmengine_does_not_convert_have_the_rates_of_the_epochs(settings):
    steps, epochs = 20, 6
    ours = rates(converted(settings, epochs, steps), epochs * steps)
    assert ours[::steps] == pytest.approx(rates({'end': epochs, **settings}, epochs))
