"""The scripts behind `make demo` and `make reproduce PLUGIN=cst`."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from mmengine.config import Config

SHORT = ['train_cfg.max_iters=4', 'train_cfg.val_interval=4', 'default_hooks.logger.interval=1',
         'default_hooks.checkpoint.interval=1']  # fmt: skip


def test_cost_study_runs(root, tmp_path):
    command = [sys.executable, root / 'projects/cst/cost.py', '--quick', '--scenes', tmp_path / 's']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'time x' in done.stdout


@pytest.fixture
def script(import_script, monkeypatch):
    """Import a script of projects/cst; configs are not formatted, which takes seconds each."""
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg._cfg_dict)))
    return partial(import_script, 'cst')


def test_study_trains_compares_and_skips_what_is_done(script, root, tmp_path, monkeypatch, capsys):
    from mmext.engine.curves import read_scalars

    monkeypatch.chdir(root)
    plain = ['supervised', 'supervised_2x']
    methods = [*plain, 'mean_teacher', 'soft_teacher', 'two_teachers', 'cst_js']
    command = ['--quick', '--work-dir', str(tmp_path), '--arms', *methods]
    script('study').STUDY.main(command)
    out = tmp_path / 'study/quick'
    result = json.loads((out / 'results/study.json').read_text())
    assert [row['key'] for row in result['rows']] == methods
    assert (out / 'results/study.png').stat().st_size > 5_000
    records = {path.parent.name.split('-')[1]: path for path in out.glob('*/record.json')}
    assert set(records) == set(methods)
    once, twice = (json.loads(records[method].read_text())['iterations'] for method in plain)
    assert twice >= 2 * once
    for method in methods[2:]:
        scalars = read_scalars(records[method].parent)
        losses = [key for key in scalars if 'unsup_loss_bbox' in key]
        # No unsupervised loss in the burn-in of one iteration; then there is one, for one student
        # at least: the boxes of an untrained teacher may miss every point.
        assert any((scalars[key][1] > 0).any() for key in losses)
    written = {path: path.stat().st_mtime_ns for path in records.values()}
    script('study').STUDY.main(command)
    assert written == {path: path.stat().st_mtime_ns for path in records.values()}
    assert '+-' in capsys.readouterr().out


class LossFree(torch.nn.Module):
    def loss(self, inputs, samples):
        return {}


@pytest.mark.parametrize(
    'cst, twice, verdict', [(32.2, 30.0, 'met'), (32.2, 31.0, 'partly'), (32.0, 20.0, 'not met')]
)
def test_verdict_of_the_study_follows_the_rule(script, cst, twice, verdict):
    mean = dict(supervised=25.0, mean_teacher=30.0, soft_teacher=29.0, mean_teacher_2x=twice,
                cst_none=31.0, cst_js=cst, **{'cst_js fused': 33.0})  # fmt: skip
    study = script('study')
    found, why = study.verdict_of(mean)
    assert found == verdict and f'(mean teacher) {cst - 30:+.1f}, ' in why
    assert f'fused: best baseline +3.0, mean teacher of equal compute {33 - twice:+.1f}.' in why
    mean['two_teachers fused'] = 32.5
    assert ', two mean teachers fused +0.5.' in study.verdict_of(mean)[1]
    assert study.beside(mean, '200 labelled') == (
        f' With 200 labelled: best baseline of equal iterations (mean teacher) {cst - 30:+.1f}, '
        'with both teachers fused +3.0.'
    )


def test_two_mean_teachers_write_for_their_own_students(script, monkeypatch):
    from mmext.plugins.cst.detector import CycleSelfTraining
    from mmext.plugins.cst.settings import train_cfg

    monkeypatch.setattr(CycleSelfTraining, 'pseudo_instances', lambda *_: (['P1', 'P2'], {}))
    taught = []
    monkeypatch.setattr(CycleSelfTraining, 'project', lambda self, found, _: taught.append(found))
    monkeypatch.setattr(CycleSelfTraining, '_unsupervised', lambda *_: {})
    for kind in (CycleSelfTraining, script('baselines').StudyTwoMeanTeachers):
        model = kind.__new__(kind)
        torch.nn.Module.__init__(model)
        model.student1, model.student2 = (LossFree() for _ in range(2))
        model.semi_train_cfg = train_cfg(None)
        model.unsup_scale = 1.0
        branches = dict.fromkeys(('sup', 'unsup_teacher', 'unsup_student'), [])
        model.loss(branches, branches)
    assert taught == ['P2', 'P1', 'P1', 'P2']


def test_background_weights_of_soft_teacher_look_up_the_moved_point(script):
    """A shift by whole cells against a lookup in the teacher's score map."""
    foreground = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[(x + 0.5) * 8, (y + 0.5) * 8] for y in range(4) for x in range(6)])
    moves = [torch.eye(3), torch.tensor([[1.0, 0, 16], [0, 1, -8], [0, 0, 1]])]
    got = script('baselines').background_weights([points], [8], [foreground], moves)
    expected = [
        [
            1 - float(foreground[image, 0, y + dy, x + dx])
            if 0 <= y + dy < 4 and 0 <= x + dx < 6
            else 1.0
            for y in range(4)
            for x in range(6)
        ]
        for image, (dx, dy) in enumerate([(0, 0), (2, -1)])
    ]
    torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=1e-5)


def test_gpu_script_runs_on_a_cpu_when_tiny(script, tmp_path):
    script('gpu').main(['--quick', '--work-dir', str(tmp_path)])
    cost = json.loads((tmp_path / 'cost.json').read_text())
    assert len(cost['rows']) == 4
    training = json.loads((tmp_path / 'training.json').read_text())
    assert set(training['rows'][0]['metrics']) == {
        f'mAP, {network}' for network in ('teacher1', 'teacher2', 'student1', 'ensemble')
    }


@pytest.mark.slow
def test_demo_resumes_after_an_interrupt(root, tmp_path):
    """The demo with 4 iterations, interrupted once there is a checkpoint and started again."""
    command = [sys.executable, root / 'projects/cst/demo.py', '--work-dir', tmp_path,
               '--cfg-options', *SHORT]  # fmt: skip
    first = subprocess.Popen(command, cwd=root, start_new_session=True)
    while not (tmp_path / 'cst/last_checkpoint').exists() and first.poll() is None:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(60) != 0
    assert not (tmp_path / 'summary.json').exists()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Continue at iteration' in (tmp_path / 'cst/train.log').read_text()
    assert {'detections.png', 'curves.png', 'summary.json'} <= {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / 'summary.json').read_text())['rows'].keys() == {
        'supervised',
        'cst',
        'cst_ensemble',
    }
