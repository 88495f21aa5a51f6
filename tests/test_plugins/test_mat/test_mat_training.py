"""MAT as a run: resume, ranks, the robustness loop, the hook."""

from pathlib import Path

import pytest
import torch
from mat_runs import config
from mmengine.runner import Runner


def train(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def saved(path):
    return torch.load(path, weights_only=False)['state_dict']


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    return train(config(tmp_path_factory.mktemp('mat')))


def test_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path):
    cfg = config(tmp_path)
    cfg.load_from, cfg.resume = str(Path(finished.work_dir) / 'epoch_1.pth'), True
    train(cfg)
    assert equal(saved(Path(finished.work_dir) / 'epoch_2.pth'), saved(tmp_path / 'epoch_2.pth'))


def test_draws_depend_on_the_seed(finished, tmp_path):
    cfg = config(tmp_path, epochs=1)
    cfg.randomness.seed = 1
    cfg.load_from = str(Path(finished.work_dir) / 'epoch_1.pth')
    assert not equal(saved(train(cfg).work_dir + '/epoch_1.pth'), saved(cfg.load_from))


def test_robustness_loop(finished):
    found = finished.test()
    assert {'robust/clean', 'robust/FGSM@8', 'robust/PGD-20@96', 'robust/FGSM/worst'} <= set(found)
    curve = [found[f'robust/PGD-20@{s}'] for s in (8, 16, 32, 48, 64, 96)]
    assert curve[-1] < found['robust/clean'] or found['robust/clean'] < 20
    assert found['robust/PGD-20/worst'] == min([*curve, found['robust/clean']])
    assert not finished.model.training


def test_robustness_loop_with_an_attack_of_least_norm(finished, tmp_path):
    cfg = config(tmp_path)
    cfg.test_cfg = dict(
        type='mmext.RobustnessTestLoop',
        attacks=[dict(type='mmext.CWAttack', steps=10, search_steps=2, lr=0.2, initial_const=1.0,
                      eps=[0.0, 30.0])],
    )  # fmt: skip
    cfg.load_from = str(Path(finished.work_dir) / 'epoch_2.pth')
    found = Runner.from_cfg(cfg).test()
    assert found['robust/CWAttack@0'] == found['robust/clean']
    assert found['robust/CWAttack@30'] < found['robust/clean']


def test_validation_under_attack_keeps_the_most_robust_checkpoint(tmp_path):
    cfg = config(tmp_path)
    cfg.train_cfg.val_interval = 1
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, dict(type='mmext.RobustAccuracy')
    cfg.val_cfg = dict(
        type='mmext.RobustnessValLoop', strengths=[16, 4],
        attacks=[dict(type='PGD', steps=2), dict(type='Standard', steps=2, queries=3)],
    )  # fmt: skip
    cfg.default_hooks.checkpoint.update(save_best='robust/Standard@16', rule='greater')
    runner = train(cfg)
    found = runner.message_hub.log_scalars
    curve = found['val/robust/Standard@16'].data[0]
    assert len(curve) == 2
    best = max(range(2), key=lambda epoch: (curve[epoch], -epoch)) + 1
    assert [path.name for path in tmp_path.glob('best_*')] == [
        f'best_robust_Standard@16_epoch_{best}.pth'
    ]
    for epoch in range(2):
        clean, weak, strong = (
            found[f'val/robust/{name}'].data[0][epoch]
            for name in ('clean', 'Standard@4', 'Standard@16')
        )
        assert clean >= weak >= strong


def test_the_loop_warns_of_randomness(finished, tmp_path):
    cfg = config(tmp_path)
    cfg.test_cfg.update(strengths=[8], attacks=[dict(type='FGSM')])
    cfg.load_from = str(Path(finished.work_dir) / 'epoch_2.pth')
    runner = Runner.from_cfg(cfg)
    head = runner.model.networks[0].backbone
    forward = head.forward
    head.forward = lambda x: forward(x + 0.1 * torch.randn_like(x))
    runner.test()
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert 'randomised: two passes' in log


@pytest.mark.parametrize(
    'attacks, message',
    [
        ([dict(type='FGSM')], 'needs strengths'),
        ([dict(type='mmext.CWAttack')], 'needs eps'),
    ],
)
def test_a_loop_without_strengths(tmp_path, attacks, message):
    cfg = config(tmp_path)
    cfg.test_cfg = dict(type='mmext.RobustnessTestLoop', attacks=attacks)
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).test()


def test_the_augment_trains_with_the_hook_and_resumes(tmp_path):
    def augmented(work_dir):
        cfg = config(work_dir)
        cfg.model = cfg.model.classifier
        cfg.model.data_preprocessor.batch_augments = dict(
            augments=dict(type='mmext.MATAugment', strengths=[16, 64],
                          attack=dict(type='PGD', steps=2))
        )  # fmt: skip
        cfg.custom_hooks.append(dict(type='mmext.AttackModelHook'))
        return cfg

    train(augmented(tmp_path / 'whole'))
    cfg = augmented(tmp_path / 'resumed')
    cfg.load_from, cfg.resume = str(tmp_path / 'whole/epoch_1.pth'), True
    train(cfg)
    assert equal(saved(tmp_path / 'whole/epoch_2.pth'), saved(tmp_path / 'resumed/epoch_2.pth'))


def test_two_ranks_draw_apart_and_stay_identical(two_ranks, tmp_path):
    two_ranks(Path(__file__).with_name('mat_rank_worker.py'), tmp_path)
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert equal(first['state'], second['state'])
    assert not all(torch.equal(a, b) for a, b in zip(first['drawn'], second['drawn'], strict=True))
    weight = 'networks.0.head.fc.weight'
    assert not torch.equal(first['state'][weight], first['state'][weight.replace('0', '1', 1)])
