"""Cycle self-training as a run: resume, ranks, averages, validation, logs."""

from pathlib import Path

import pytest
import torch
from cst_runs import config, hook
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.plugins.cst.functional import ramp

NETWORKS = ('teacher1', 'teacher2', 'student1', 'student2')


def train(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def state_of(runner_or_path):
    if isinstance(runner_or_path, Path):
        return torch.load(runner_or_path, weights_only=False)
    return dict(runner_or_path.model.state_dict())


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Call(Hook):
    """Call something at one point of the run."""

    def __init__(self, point, call):
        setattr(self, point, lambda *_, **__: call())


@pytest.fixture(scope='module')
def finished(scenes, tmp_path_factory):
    """A run of 5 iterations with a burn-in of 2 and a checkpoint after each."""
    cfg = config(scenes, tmp_path_factory.mktemp('finished'), max_iters=5, validate=True)
    return train(cfg)


@pytest.mark.parametrize('at', [1, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(finished, scenes, tmp_path, at):
    cfg = config(scenes, tmp_path, max_iters=5)
    cfg.load_from = str(Path(finished.work_dir) / f'iter_{at}.pth')
    cfg.resume = True
    resumed = train(cfg)
    assert equal(state_of(finished), state_of(resumed))
    old, new = (
        torch.load(Path(run.work_dir) / 'iter_5.pth', weights_only=False)['optimizer']['state']
        for run in (finished, resumed)
    )
    assert old.keys() == new.keys()
    for index, state in old.items():
        assert all(torch.equal(state[name], new[index][name]) for name in state)


def test_unsupervised_losses_and_diagnostics_are_logged(finished):
    scalars = finished.message_hub.log_scalars
    for key in (
        'student1_unsup_loss_cls',
        'student2_unsup_loss_bbox',
        'pseudo/teacher1',
        'dcr/weight_spread',
        'dcr/js_mean',
    ):
        assert f'train/{key}' in scalars, key
    assert len(scalars['train/student1_unsup_loss_cls']._log_history) == 3  # not in the burn-in
    assert len(scalars['train/student1_sup_loss_cls']._log_history) == 5


def test_validation_reports_every_network_and_returns(finished):
    metrics = finished.val_loop.run()
    assert {key.partition('/')[0] for key in metrics} == {'teacher1', 'teacher2'}
    assert all(key.split('/')[1] == 'coco' for key in metrics)
    assert finished.model.predict_on == 'teacher1'
    finished.val_loop.networks = None
    finished.model.predict_on = 'student2'
    metrics = finished.val_loop.run()
    assert {key.partition('/')[0] for key in metrics} == {'student2'}
    finished.model.predict_on = 'teacher1'


def test_validation_refuses_unknown_networks(scenes, tmp_path):
    cfg = config(scenes, tmp_path, validate=True)
    cfg.val_cfg.networks = ['teacher1', 'teacher3']
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match='teacher3'):
        runner.train()


@pytest.mark.parametrize('handover', ['copy', 'average'])
def test_teachers_follow_by_hand_computation(scenes, tmp_path, handover):
    """The teachers after each iteration from the students' checkpoints alone."""
    cfg = config(scenes, tmp_path, max_iters=4)
    hook(cfg, 'CycleTeacherHook').update(momentum=0.1, handover=handover)
    train(cfg)
    states = [state_of(tmp_path / f'iter_{i}.pth')['state_dict'] for i in range(1, 5)]
    for before, after, iteration in zip(states, states[1:], (1, 2, 3), strict=False):
        for index in '12':
            for key, student in after.items():
                if not key.startswith(f'student{index}.'):
                    continue
                name = key.replace('student', 'teacher')
                if 'num_batches' in key:
                    assert torch.equal(after[name], student), name
                    continue
                # At iteration 2 the burn-in ends: a copy starts from its student's weights.
                copied = handover == 'copy' and iteration == 2
                start = before[key if copied else name].double()
                expected = 0.9 * start + 0.1 * student.double()
                torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_average_follows_updates_not_micro_batches(scenes, tmp_path):
    cfg = config(scenes, tmp_path, max_iters=4)
    cfg.optim_wrapper.accumulative_counts = 2
    hook(cfg, 'CycleTeacherHook').update(burn_in=0)
    train(cfg)
    states = [state_of(tmp_path / f'iter_{i}.pth')['state_dict'] for i in range(1, 5)]

    def teachers(state):
        return {k: v for k, v in state.items() if k.startswith('teacher') and 'running' not in k}

    # Steps happen at the end of iterations 2 and 4.
    parameters = [{k: v for k, v in teachers(s).items() if 'num_batches' not in k} for s in states]
    assert not equal(parameters[0], parameters[1])
    assert equal(parameters[1], parameters[2])
    assert not equal(parameters[2], parameters[3])


def test_loaded_teachers_are_not_overwritten(finished, scenes, tmp_path):
    source = Path(finished.work_dir) / 'iter_5.pth'
    loaded = torch.load(source, weights_only=False)['state_dict']
    for mean in (False, True):
        cfg = config(scenes, tmp_path / str(mean), max_iters=3)
        hook(cfg, 'CycleTeacherHook').momentum = 1e-9
        path = tmp_path / f'{mean}.pth'
        state = loaded
        if mean:
            state = {
                k.replace('1.', '.', 1): v
                for k, v in loaded.items()
                if k.startswith(('teacher1.', 'student1.'))
            }
        torch.save(dict(state_dict=state), path)
        cfg.load_from = str(path)
        runner = train(cfg)
        key = 'teacher1.bbox_head.conv_cls.weight'
        torch.testing.assert_close(
            runner.model.state_dict()[key], loaded[key], rtol=1e-5, atol=1e-7
        )
        student = runner.model.state_dict()[key.replace('teacher', 'student')]
        assert not torch.allclose(student, loaded[key], rtol=1e-5, atol=1e-7)


def test_students_are_clipped_each_for_itself(scenes, tmp_path):
    cfg = config(scenes, tmp_path, max_iters=1)
    hook(cfg, 'CycleTeacherHook').clip_grad = dict(max_norm=0.01)
    runner = Runner.from_cfg(cfg)
    norms = []

    def watch(optimizer, *_):
        for student in runner.model.students:
            norms.append(torch.cat([p.grad.flatten() for p in student.parameters()]).norm())

    # Lowest priority: registered last, so torch calls it after the clipping.
    late = Call(
        'before_train', lambda: runner.optim_wrapper.optimizer.register_step_pre_hook(watch)
    )
    runner.register_hook(late, priority='LOWEST')
    runner.train()
    assert len(norms) == 2
    for norm in norms:
        torch.testing.assert_close(norm, torch.tensor(0.01), rtol=1e-3, atol=0)


AUTO = dict(burn_in='auto', ramp_up='auto', momentum='auto')


def test_what_is_auto_is_logged_and_acts(scenes, tmp_path, monkeypatch):
    cfg = config(scenes, tmp_path, max_iters=4)
    hook(cfg, 'CycleTeacherHook').update(AUTO)
    runner = Runner.from_cfg(cfg)
    said, scales = [], []
    monkeypatch.setattr(runner.logger, 'info', lambda text, *_: said.append(str(text)))
    spy = Call('after_train_iter', lambda: scales.append(runner.model.unsup_scale))
    runner.register_hook(spy, priority='LOWEST')
    runner.train()
    (line,) = (text for text in said if text.startswith('CST of '))
    assert 'CST of 4 iterations: burn_in=2 ' in line and ' momentum=0.1 ' in line
    assert 'of these burn_in, ramp_up, momentum auto' in line
    assert scales == [0, 0, 1, 1]
    averages = [state_of(tmp_path / f'iter_{i}.pth')['state_dict'] for i in (3, 4)]
    key = 'bbox_head.conv_cls.weight'
    expected = 0.9 * averages[0][f'teacher2.{key}'] + 0.1 * averages[1][f'student2.{key}']
    torch.testing.assert_close(averages[1][f'teacher2.{key}'], expected, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_that_is_longer_keeps_its_burn_in(scenes, tmp_path):
    cfg = config(scenes, tmp_path / 'short', max_iters=4)
    hook(cfg, 'CycleTeacherHook').update(AUTO)
    train(cfg)
    cfg = config(scenes, tmp_path / 'long', max_iters=6)
    # What is given now is taken.
    hook(cfg, 'CycleTeacherHook').update({**AUTO, 'momentum': 0.25})
    cfg.load_from, cfg.resume = str(tmp_path / 'short/iter_4.pth'), True
    runner = train(cfg)
    (teachers,) = (h for h in runner.hooks if type(h).__name__ == 'CycleTeacherHook')
    assert (teachers.used.burn_in, teachers.used.momentum) == (2, 0.25)


@pytest.mark.parametrize('burn_in, warns', [(1, False), (2, True), (2000, True)])
def test_a_burn_in_as_long_as_the_run_is_said(scenes, tmp_path, monkeypatch, burn_in, warns):
    cfg = config(scenes, tmp_path, max_iters=2)
    hook(cfg, 'CycleTeacherHook').burn_in = burn_in
    runner = Runner.from_cfg(cfg)
    said = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *_: said.append(text))
    runner.train()
    lines = [text for text in said if 'never uses the unlabelled images' in text]
    assert len(lines) == warns
    assert all(f'burn_in={burn_in} is not below the 2 iterations' in text for text in lines)


def test_nothing_stays_attached_after_the_run(finished):
    assert type(finished.optim_wrapper).__name__ == 'OptimWrapper'
    assert not finished.optim_wrapper.optimizer._optimizer_step_post_hooks


def test_collapse_is_reported(scenes, tmp_path, monkeypatch):
    cfg = config(scenes, tmp_path, max_iters=4)
    hook(cfg, 'CycleTeacherHook').burn_in = 0
    hook(cfg, 'DistributionConsistencyHook').update(interval=1, patience=3, collapse_js=1.0)
    runner = Runner.from_cfg(cfg)
    said = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *_: said.append(text))
    runner.train()
    assert sum('collapsed' in text for text in said) == 1


def test_schedule_of_the_reweighting(scenes, tmp_path):
    cfg = config(scenes, tmp_path, max_iters=4)
    hook(cfg, 'DistributionConsistencyHook').update(start=1, ramp_up=2, floor=0.25, temperature=2.0)
    runner = Runner.from_cfg(cfg)
    shares = []
    spy = Call('before_train_iter', lambda: shares.append(runner.model.consistency.share))
    runner.register_hook(spy, priority='LOWEST')
    runner.train()
    assert shares == [ramp(i, 1, 2) for i in range(4)]
    assert runner.model.consistency.floor == 0.25
    assert runner.model.consistency.temperature == 2.0


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(momentum=0.996), 'momentum=0.996.*weight of the student'),
        (dict(burn_in=-1), 'burn_in=-1'),
        (dict(burn_in='half'), "burn_in='half' must be 'auto' or not negative"),
        (dict(ramp_up=-2), 'ramp_up=-2'),
        (dict(momentum='slow'), 'momentum=slow'),
        (dict(handover='ema'), "handover='ema'"),
    ],
)
def test_bad_hook_settings(settings, message):
    from mmext.plugins.cst import CycleTeacherHook

    with pytest.raises(ValueError, match=message):
        CycleTeacherHook(**settings)


def test_hooks_refuse_another_model(scenes, tmp_path):
    cfg = config(scenes, tmp_path, name='supervised_fcos_r18_digits.py')
    cfg.custom_hooks.append(dict(type='mmext.CycleTeacherHook'))
    with pytest.raises(TypeError, match='mmext.CycleSelfTraining, but the model is FCOS'):
        Runner.from_cfg(cfg).train()


def test_two_ranks_stay_identical_and_sequential_backward_changes_nothing(
    two_ranks, scenes, tmp_path
):
    two_ranks(Path(__file__).with_name('cst_rank_worker.py'), scenes, tmp_path)
    first, second = (state_of(tmp_path / f'rank{rank}-False.pth') for rank in (0, 1))
    # BN statistics are each rank's own, as everywhere in MMDetection.
    shared = [k for k in first if 'running' not in k and 'num_batches' not in k]
    assert all(torch.equal(first[k], second[k]) for k in shared)
    assert not torch.equal(
        first['student1.bbox_head.conv_cls.weight'], first['student2.bbox_head.conv_cls.weight']
    )
    assert equal(first, state_of(tmp_path / 'rank0-True.pth'))
