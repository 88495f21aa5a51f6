"""The studies behind `make reproduce PLUGIN=terngrad`, shortened; nothing goes to results/."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner


@pytest.fixture
def studies(import_script, monkeypatch):
    """Import one of them, with its neighbours."""

    def load(name, *arguments):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        return import_script('terngrad', name)

    return load


def test_accuracy_study_runs_and_goes_on(studies, root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(root)
    accuracy = studies('accuracy')
    accuracy.STUDY.main(['--quick', '--work-dir', str(tmp_path)])
    assert capsys.readouterr().out.count(': error % ') == 12
    result = json.loads((tmp_path / 'accuracy/quick/results/accuracy.json').read_text())
    assert len(result['rows']) == 12
    values = [row['metrics']['train cross-entropy']['values'] for row in result['rows'][:3]]
    assert values[0] != values[1] != values[2], 'ternary gradients, of one and of two workers'
    with pytest.raises(SystemExit, match='float32 and one memory format'):
        accuracy.STUDY.main(['--quick', '--amp', '--work-dir', str(tmp_path)])


@pytest.mark.parametrize(('error', 'verdict'), [(2.0, 'partly'), (4.5, 'not met')])
def test_accuracy_is_judged_on_the_worst_case(studies, error, verdict):
    accuracy = studies('accuracy')
    from harness.report import Found

    records = {('', accuracy.name(case)): [{'error': 2.0, 'train_loss': 0.1}] * 2
               for case in accuracy.cases()}  # fmt: skip
    records['', accuracy.name(('Adam', 'TernGrad', 8))] = [{'error': error, 'train_loss': 0.1}] * 2
    assert accuracy.judge(Found(accuracy.STUDY, records, {}))[0] == verdict


def test_codec_study_runs(studies, monkeypatch, capsys):
    codec = studies('codec', '--quick')
    monkeypatch.setattr(codec, 'NUMEL', 10_000)
    codec.main()
    assert 'base3, 2 threads' in capsys.readouterr().out


def pictures(shape):
    """Images and labels in the place of the prepared sets."""
    draws = torch.Generator().manual_seed(0)
    return torch.randn(120, *shape, generator=draws), torch.arange(120) % 10


def test_accuracies_with_error_feedback_are_measured(studies, monkeypatch, capsys):
    wire = studies('wire', '--part', 'feedback', '--quick')
    monkeypatch.setattr(wire, 'images_of', lambda name: pictures((3, 32, 32)))
    monkeypatch.setattr(wire, 'SEEDS', (0,))
    monkeypatch.setattr(wire, 'HELD', 20)
    wire.main()
    told = capsys.readouterr().out
    assert told.count('% right') == 4 and 'seed 0, ternary, error feedback: ' in told


def test_an_unknown_part_is_an_error(studies):
    with pytest.raises(SystemExit, match='--part x is unknown; choose one of bits, auto, feedback'):
        studies('wire', '--part', 'x').main()


@pytest.mark.parametrize('name', ['CifarNet on CIFAR-10', 'LeNet on Fashion-MNIST'])
def test_bits_of_real_ranks_are_counted(studies, monkeypatch, name):
    wire = studies('wire')
    monkeypatch.setattr(wire, 'BATCH', 8)
    if reason := wire.links.missing():
        pytest.skip(f'needs root and network namespaces: {reason}')
    data = pictures((3, 32, 32) if name.startswith('CifarNet') else (1, 28, 28))
    packed, coded = (wire.bits_of(name, 2, data, way, 3) for way in ('packed', 'coded'))
    assert 1.6 < packed['bits/element'][0] < 2.2 and coded['bits/element'] < packed['bits/element']
    assert 0 < coded['ns/element'][0] < 1000


def synthetic(network, model):
    """Records that follow the performance model exactly."""
    numel, records = 11_000_000, {}
    constants = (2e-8, 5e-4, 1.05, 0.4, numel)
    for n_ranks, rate in network.CASES:
        share = max(1.0, n_ranks / (model.os.cpu_count() or 1))
        methods = {}
        for index, method in enumerate(network.METHODS):
            known = method if method in ('fp32', 'TernGrad') else 'fp32'
            seconds = model.predict(
                constants, known, n_ranks, model.RATES.get(rate, 4e10), 0.2, share
            )
            count = numel * model.bits(known, n_ranks) / 8
            methods[method] = {'seconds': [seconds + index * 1e-9] * 3, 'bytes': [count] * 3}
        records[network.case_name(n_ranks, rate)] = {'methods': methods, 'numel': numel}
    return records


def test_model_fits_steps_that_follow_it_and_is_drawn(studies, tmp_path):
    network, model = studies('network'), studies('model')
    records = synthetic(network, model)
    constants, rows = model.fit(records)
    for row in rows:
        assert row['predicted'] == pytest.approx(row['measured'], rel=0.02)
    assert constants['inverse_efficiency'] == pytest.approx(1.05, rel=0.1)
    model.draw(constants, rows, tmp_path / 'model.png')
    network.draw(records, tmp_path / 'network.png')
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())
    # More bandwidth, less gain; VGG, mostly fully connected, gains more than ResNet.
    gains = [model.speed_up(constants, 'vgg16', 8, link) for link in model.LINKS]
    assert all(a >= b for a, b in itertools.pairwise(gains)) and gains[0] > 5
    assert gains[0] > model.speed_up(constants, 'resnet50', 8, '1 Gbit/s')


def test_network_result_is_judged_by_its_goals(studies):
    network, model = studies('network'), studies('model')
    records = synthetic(network, model)
    found = network.judge(records)
    assert found['verdict'] == 'met' and '20.0x fewer bytes, fastest: TernGrad' in found['why']
    record = records[network.case_name(2, '1gbit')]['methods']
    record['fp16'] = {'seconds': [1e-3] * 3, 'bytes': [1.0] * 3}
    assert network.judge(records)['verdict'] == 'partly'
    record['TernGrad']['bytes'] = [record['fp32']['bytes'][0] / 2] * 3
    assert network.judge(records)['verdict'] == 'not met'
    rows = network.rows_of('2 ranks, 1gbit', records['2 ranks, 1gbit'])
    assert rows[0]['cost']['times fewer bytes'] == 1


@pytest.mark.slow
def test_network_study_runs(studies, root):
    reason = studies('links').missing()
    if reason:
        pytest.skip(f'needs root and network namespaces: {reason}')
    command = [sys.executable, root / 'projects/terngrad/network.py', '--quick']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    methods = json.loads(done.stdout)['methods']
    assert sum(methods['fp32']['bytes']) > 15 * sum(methods['TernGrad']['bytes'])


@pytest.mark.parametrize('name', ['terngrad_lenet_digits', 'terngrad-x4_lenet_digits'])
def test_a_digit_config_trains(root, tmp_path, name):
    cfg = Config.fromfile(root / f'configs/terngrad/{name}.py')
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.dataset.indices = 256
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
    cfg.custom_hooks = []
    runner = Runner.from_cfg(cfg)
    before = [parameter.clone() for parameter in runner.model.parameters()]
    runner.train()
    for old, new in zip(before, runner.model.parameters(), strict=True):
        assert new.isfinite().all() and not torch.equal(old, new)
    assert 'val/accuracy/top1' in runner.message_hub.log_scalars
    assert 'train/terngrad/zeros' in runner.message_hub.log_scalars
