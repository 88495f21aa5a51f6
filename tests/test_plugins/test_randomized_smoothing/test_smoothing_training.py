"""Real runs: resume, two ranks, the test loop with the metric, the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from smoothing_runs import CONFIGS, config

from mmext import launch
from mmext.commands.main import main
from mmext.launch import overlay
from mmext.plugins.randomized_smoothing import CertifiedRadius, certification
from mmext.plugins.randomized_smoothing.certified_radius import certified_summary

ROOT = CONFIGS.parents[1]
HERE = Path(__file__).resolve().parent


def state_of(path):
    return torch.load(path, weights_only=False)['state_dict']


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Two epochs of the adversarial config; a checkpoint after each."""
    cfg = config(tmp_path_factory.mktemp('trained'))
    runner = Runner.from_cfg(cfg)
    runner.train()
    return Path(cfg.work_dir), runner


def test_training_logs_the_risk_and_what_to_watch(trained):
    scalars = trained[1].message_hub.log_scalars
    for key in ('loss', 'loss_perturbed', 'loss_adre', 'smoothed/accuracy', 'smoothed/runner_up'):
        assert len(scalars[f'train/{key}']._log_history) == 10
    values = {key: scalars[f'train/{key}'].current() for key in ('loss_perturbed', 'loss_adre')}
    assert scalars['train/loss'].current() == pytest.approx(sum(values.values()), rel=1e-5)


def test_resumed_equals_uninterrupted_bit_for_bit(trained, tmp_path):
    cfg = config(tmp_path)
    cfg.load_from, cfg.resume = str(trained[0] / 'epoch_1.pth'), True
    Runner.from_cfg(cfg).train()
    last = state_of(trained[0] / 'epoch_2.pth')
    assert equal(last, state_of(tmp_path / 'epoch_2.pth'))
    assert not equal(last, state_of(trained[0] / 'epoch_1.pth'))


def test_two_ranks_stay_identical_under_different_noise(two_ranks, tmp_path):
    two_ranks(HERE / 'smoothing_rank_worker.py', tmp_path)
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert equal(first['state'], second['state'])
    assert len(first['noise']) == 9 and not set(first['noise']) & set(second['noise'])


def test_the_test_loop_certifies(trained, tmp_path):
    """A training checkpoint under SmoothedClassifier, measured by the metric."""
    cfg = config(tmp_path)
    cfg.model = dict(
        type='mmext.SmoothedClassifier', classifier=cfg.model.classifier, sigma=0.5, n0=20, n=200
    )
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.test_dataloader.dataset.indices = 24
    cfg.test_evaluator = dict(
        type='mmext.CertifiedRadius', radii=[0, 0.5], tsv=str(tmp_path / 'a.tsv')
    )
    cfg.load_from = str(trained[0] / 'epoch_2.pth')
    metrics = Runner.from_cfg(cfg).test()
    assert metrics.keys() == {
        'certified/acr', 'certified/accuracy@0', 'certified/accuracy@0.5', 'certified/abstained'
    }  # fmt: skip
    rows = read_tsv(tmp_path / 'a.tsv')
    assert [int(row['idx']) for row in rows] == list(range(24))
    radii = [float(row['radius']) * int(row['correct']) for row in rows]
    assert metrics['certified/acr'] == pytest.approx(np.mean(radii), abs=1e-6)


def read_tsv(path):
    """As Cohen's analysis scripts read it: tab-separated, with these columns."""
    header, *lines = path.read_text().splitlines()
    assert header == 'idx\tlabel\tpredict\tradius\tcorrect\ttime'
    return [dict(zip(header.split('\t'), line.split('\t'), strict=True)) for line in lines]


def test_the_overlay_wraps_a_shipped_classifier():
    cfg = launch.load_config('mmpretrain::lenet/lenet5_mnist.py')
    cfg = overlay.apply(cfg, ['randomized_smoothing'])
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    assert type(model.classifier.backbone).__name__ == 'LeNet5'
    data = dict(
        inputs=torch.randint(256, (4, 1, 32, 32), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(label) for label in range(4)],
    )
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    assert losses['loss_adre'].isfinite() and losses['loss_perturbed'] > 0
    # Pixels as the data preprocessor's mean and std say.
    mean, std = (cfg.model.classifier.data_preprocessor[key][0] for key in ('mean', 'std'))
    black = torch.full((1, 1, 1, 1), -mean / std)
    torch.testing.assert_close(model.space.to_pixels(black), torch.zeros(1, 1, 1, 1))


def test_summary_by_hand():
    found = certified_summary([0, 1, 2, 3], [0, 1, -1, 0], [0.2, 0.6, 0.0, 0.9], [0, 0.5])
    expected = {'acr': 0.2, 'accuracy@0': 50.0, 'accuracy@0.5': 25.0, 'abstained': 25.0}
    assert found == pytest.approx(expected)


def test_metric_asks_for_certificates():
    with pytest.raises(ValueError, match='SmoothedClassifier'):
        CertifiedRadius().process(None, [dict(gt_label=0, pred_label=0)])
    with pytest.raises(ValueError, match='negative'):
        CertifiedRadius(radii=[-1])


class Command:
    """Run ``mmext certify`` on 12 test digits, in this process or in another one."""

    def __init__(self, checkpoint, folder):
        self.config = folder / 'digits.py'
        settings = config(folder).to_dict()
        self.config.write_text(''.join(f'{key} = {value!r}\n' for key, value in settings.items()))
        self.checkpoint = checkpoint

    def arguments(self, out, *options):
        fixed = [self.config, self.checkpoint, '--sigma', '0.5', '--n0', '20', '--n', '300',
                 '--max', '12', '--images', '2', '--batch', '64', '--out', out]  # fmt: skip
        return [str(part) for part in (*fixed, *options)]

    def __call__(self, out, *options):
        main(['certify', *self.arguments(out, *options)])

    def start(self, out):
        return subprocess.Popen(
            [sys.executable, '-m', 'mmext', 'certify', *self.arguments(out)],
            stderr=subprocess.PIPE, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )  # fmt: skip


@pytest.fixture(scope='module')
def command(trained, tmp_path_factory):
    return Command(trained[0] / 'epoch_2.pth', tmp_path_factory.mktemp('command'))


@pytest.fixture(scope='module')
def whole(command, tmp_path_factory):
    """A certification that nobody interrupts."""
    out = tmp_path_factory.mktemp('whole')
    command(out)
    return out


def test_command_line_writes_all_reports(whole):
    found = json.loads((whole / 'certified.json').read_text())
    assert found['images'] == 12 and found['settings']['sigma'] == 0.5
    for method in ('cohen', 't_certify'):
        rows = read_tsv(whole / f'{method}.tsv')
        acr = np.mean([float(row['radius']) * int(row['correct']) for row in rows])
        assert found['methods'][method]['acr'] == pytest.approx(acr, abs=1e-6)
    assert (whole / 'certified.png').read_bytes().startswith(b'\x89PNG')
    assert len((whole / certification.RECORDS).read_text().splitlines()) == 13


def test_command_line_shows_all_measures_on_a_narrow_terminal(whole, command, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    command(whole)
    shown = capsys.readouterr().out
    found = json.loads((whole / 'certified.json').read_text())['methods']
    for name in found['cohen']:
        values = [f'{found[method][name]:.3f}' for method in ('cohen', 't_certify')]
        assert re.search(rf'│ {name} +│ +{values[0]} │ +{values[1]} │', shown), name


def test_a_killed_certification_goes_on(whole, command, tmp_path, capsys):
    """Killed after the first images, with a line cut off; the end is the same."""
    process = command.start(tmp_path)
    records = tmp_path / certification.RECORDS
    while process.poll() is None:
        if records.exists() and records.read_bytes().count(b'\n') > 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), err
    lines = records.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 3
    # Whatever the kill left: the last image is lost, the one before is cut off.
    kept = b''.join(lines[:-2])
    records.write_bytes(kept + lines[-2][:30])
    command(tmp_path)
    assert records.read_bytes().startswith(kept)
    for name in ('cohen.tsv', 't_certify.tsv'):
        rows, expected = (read_tsv(folder / name) for folder in (tmp_path, whole))
        for row in (*rows, *expected):
            del row['time']
        assert rows == expected
    with pytest.raises(SystemExit):
        command(tmp_path, '--seed', '1')
    assert 'seed: 0 there, 1 here' in capsys.readouterr().err


def test_early_stop_on_the_command_line(command, tmp_path):
    command(tmp_path, '--n', '20000', '--max', '2', '--target-radius', '0.01')
    _, *records = map(json.loads, (tmp_path / certification.RECORDS).read_text().splitlines())
    assert all(sum(record['counts']) < 20_000 for record in records)
    assert not (tmp_path / 'cohen.tsv').exists() and (tmp_path / 't_certify.tsv').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--sigma', '0'], 'sigma=0.0 must be positive'),
        (['--skip', '0'], '--skip'),
        (['--cfg-options', 'test_dataloader.dataset.metainfo.classes=[a,b]'], '10 classes'),
        (['--cfg-options', 'model.classifier.head.num_classes=4'], 'does not fit'),
        (['--cfg-options', 'test_dataloader=None'], 'no test_dataloader'),
    ],
)
def test_mistakes_are_one_line(command, tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(tmp_path, *options)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        Command('nothing.pth', tmp_path)(tmp_path / 'out')
    assert stopped.value.code == 2 and 'nothing.pth does not exist' in capsys.readouterr().err
