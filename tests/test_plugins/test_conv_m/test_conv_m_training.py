"""Adaptation as a run: leakage, resume, ranks, configs."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from conv_m_runs import CONFIGS, config
from mmengine.config import Config
from mmengine.runner import Runner

from mmext.datasets.digits import DigitsDataset
from mmext.datasets.office import COUNTS


def train(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def saved(path):
    return torch.load(path, weights_only=False)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    return train(config(tmp_path_factory.mktemp('conv_m')))


def test_poisoned_target_labels_change_nothing(finished, tmp_path, monkeypatch):
    load, poisoned = DigitsDataset.load_data_list, []

    def poison(dataset):
        items = load(dataset)
        if (dataset.source, dataset.split) == ('handwritten', 'train'):
            poisoned.append(dataset)
            items = [{**item, 'gt_label': (item['gt_label'] + 3) % 10} for item in items]
        return items

    monkeypatch.setattr(DigitsDataset, 'load_data_list', poison)
    runner = train(config(tmp_path))
    assert poisoned == [runner.train_dataloader.dataset.datasets[1]]
    clean = finished.train_dataloader.dataset.datasets[1].get_gt_labels()
    assert (poisoned[0].get_gt_labels() == (clean + 3) % 10).all()
    first = saved(Path(finished.work_dir) / 'iter_4.pth')
    second = saved(tmp_path / 'iter_4.pth')
    assert equal(first['state_dict'], second['state_dict'])


def test_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path):
    cfg = config(tmp_path)
    whole = Path(finished.work_dir)
    report = json.loads((whole / 'target_accuracy.json').read_text())
    (tmp_path / 'target_accuracy.json').write_text(json.dumps(report))
    cfg.load_from, cfg.resume = str(whole / 'iter_2.pth'), True
    train(cfg)
    first, second = saved(whole / 'iter_4.pth'), saved(tmp_path / 'iter_4.pth')
    assert equal(first['state_dict'], second['state_dict'])
    momenta = [
        [state['momentum_buffer'] for state in found['optimizer']['state'].values()]
        for found in (first, second)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
    assert first['param_schedulers'] == second['param_schedulers']
    assert json.loads((tmp_path / 'target_accuracy.json').read_text()) == report
    assert [row['iteration'] for row in report['validations']] == [2, 4]


def test_every_part_was_trained_and_the_rate_has_fallen(finished):
    first, second = (saved(Path(finished.work_dir) / f'iter_{i}.pth') for i in (2, 4))
    for name in ('backbone.stages.2.2.deconv.1.conv.weight', 'head.fc.weight',
                 'da_losses.adversarial.classifier.0.weight',
                 'da_losses.label.residual.2.weight'):  # fmt: skip
        assert not torch.equal(first['state_dict'][name], second['state_dict'][name]), name
    lr = finished.optim_wrapper.get_lr()['lr'][0]
    # That of the fourth and last iteration.
    assert lr == pytest.approx(0.03 * (1 + 3 * 10 / 600) ** -0.75, rel=1e-6)


def test_the_log_tells_losses_and_choices(finished):
    logs = next(Path(finished.work_dir).rglob('vis_data/scalars.json')).read_text().splitlines()
    row = next(row for row in map(json.loads, logs) if 'mmd.loss' in row)
    parts = [row[key] for key in ('loss', 'adversarial.loss', 'mmd.loss', 'label.loss')]
    assert {'adversarial.domain_accuracy', 'adversarial.reversal', 'mmd.discrepancy',
            'label.entropy'} <= row.keys()  # fmt: skip
    assert all(isinstance(part, float) for part in parts)
    told = json.loads((Path(finished.work_dir) / 'target_accuracy.json').read_text())
    assert set(told) > {'last_iteration', 'oracle (chosen with target labels)'}


def test_a_target_that_keeps_its_labels_is_an_error(tmp_path):
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset.target.pipeline.pop(0)
    with pytest.raises(ValueError, match='must begin with .*DropLabel'):
        train(cfg)


def test_it_tests_from_a_checkpoint(finished, tmp_path):
    cfg = config(tmp_path)
    cfg.load_from = str(Path(finished.work_dir) / 'iter_4.pth')
    cfg.test_dataloader.dataset.indices = 30
    assert 0 <= Runner.from_cfg(cfg).test()['accuracy/top1'] <= 100


def test_two_ranks_see_other_images_and_stay_identical(two_ranks, tmp_path):
    two_ranks(Path(__file__).with_name('conv_m_rank_worker.py'), tmp_path)
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert equal(first['parameters'], second['parameters'])
    assert len(first['seen']) == 3
    for (images, labels), (others, _) in zip(first['seen'], second['seen'], strict=True):
        assert not torch.equal(images, others)
        assert (labels[:8] >= 0).all() and (labels[8:] == -1).all()


def office_tasks():
    return [
        (variant, source, target)
        for variant, domains in COUNTS.items()
        for source, target in itertools.permutations(domains, 2)
    ]


def test_all_eighteen_office_tasks_have_their_config():
    names = {f'conv-m-da_{v}_{s}2{t}.py' for v, s, t in office_tasks()}
    assert len(names) == 18
    found = {path.name for path in CONFIGS.glob('conv-m-da_*') if '2' in path.name}
    assert names == {n for n in found if n.startswith(('conv-m-da_office31', 'conv-m-da_caltech'))}


@pytest.mark.parametrize('variant, source, target', office_tasks()[::5])
def test_an_office_config_says_what_its_name_says(variant, source, target):
    cfg = Config.fromfile(CONFIGS / f'conv-m-da_{variant}_{source}2{target}.py')
    data = cfg.train_dataloader.dataset
    assert (data.source.domain, data.target.domain) == (source, target)
    assert cfg.test_dataloader.dataset.domain == cfg.val_dataloader.dataset.domain == target
    parts = (data.source, data.target, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset)
    assert {part.variant for part in parts} == {variant}
    classes = 31 if variant == 'office31' else 10
    assert cfg.model.head.num_classes == cfg.model.da_losses.label.num_classes == classes
    assert data.target.pipeline[0] == dict(type='mmext.DropLabel')
    assert data.source.pipeline[0] != dict(type='mmext.DropLabel')
