"""What the kit makes of a config, and how it compares states."""

import math
import re

import pytest
import torch
from mmengine.config import Config

from mmext.testing.trial import first_difference, plain_text, shorten


@pytest.mark.parametrize(
    'other, said',
    [
        ({'a': [torch.tensor([1.0, math.nan])], 'b': 1}, None),
        ({'a': [torch.tensor([1.0, 2.0])], 'b': 1}, r'a\[0\]: 1 of 2 elements differ'),
        ({'a': [torch.tensor([1.5, math.nan])], 'b': 1}, r'a\[0\]: 1 of 2 .* by up to 0.5'),
        ({'a': [torch.tensor([1, 2])], 'b': 1}, r'torch.float32 \(2,\) and torch.int64'),
        ({'a': [torch.zeros(1, 2)], 'b': 1}, r'\(2,\) and torch.float32 \(1, 2\)'),
        ({'a': [torch.tensor([1.0, math.nan])], 'b': 2}, 'b: 1 and 2'),
        ({'a': [], 'b': 1}, 'a have lengths 1 and 0'),
        ({'a': [torch.tensor([1.0, math.nan])], 'c': 1}, 'different keys: b, c'),
    ],
)
def test_first_difference(other, said):
    one = {'a': [torch.tensor([1.0, math.nan])], 'b': 1}
    found = first_difference(one, other)
    assert (found is None) == (said is None), found
    assert said is None or re.search(said, found), found


@pytest.mark.parametrize('seed_iterations', [True, False])
def test_any_config_becomes_a_short_run(tmp_path, seed_iterations):
    cfg = Config(
        dict(
            train_cfg=dict(by_epoch=True, max_epochs=9, val_interval=2),
            val_cfg=dict(),
            val_dataloader=dict(),
            val_evaluator=dict(),
            train_dataloader=dict(num_workers=4, persistent_workers=True, prefetch_factor=2),
            custom_hooks=[
                dict(type='mmext.CurvesHook'),
                dict(type='EMAHook'),
                dict(type='mmext.IterSeedHook'),
            ],
            default_hooks=dict(timer=dict(type='IterTimerHook'), checkpoint=dict(interval=5)),
            randomness=dict(seed=7, deterministic=True),
            resume=True,
        )
    )
    shorten(cfg, tmp_path, 'name', 4, seed_iterations)
    assert cfg.train_cfg == dict(type='IterBasedTrainLoop', max_iters=4)
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    assert cfg.train_dataloader == dict(num_workers=0, persistent_workers=False)
    seeding = ['mmext.IterSeedHook'] if seed_iterations else []
    assert [hook.type for hook in cfg.custom_hooks] == [
        'EMAHook', *seeding, 'mmext.PlainCheckpointHook'
    ]  # fmt: skip
    assert cfg.default_hooks.timer.type == 'IterTimerHook'
    assert cfg.default_hooks.checkpoint.interval == 1
    assert cfg.randomness == dict(seed=0, deterministic=True) and cfg.resume is False
    assert cfg.work_dir == str(tmp_path) and cfg.experiment_name == 'name'


def test_a_loop_of_the_host_is_kept(tmp_path):
    train_cfg = dict(type='mmext.ResumableIterTrainLoop', max_iters=90, val_interval=30)
    cfg = Config(dict(train_cfg=train_cfg, train_dataloader={}))
    shorten(cfg, tmp_path, 'name', 3)
    assert cfg.train_cfg == dict(type='mmext.ResumableIterTrainLoop', max_iters=3)


def test_plain_text_is_read_back(tmp_path):
    cfg = Config(dict(a=dict(b=[1, (2.5, None)]), c='x'))
    (tmp_path / 'c.py').write_text(plain_text(cfg))
    assert Config.fromfile(tmp_path / 'c.py').to_dict() == cfg.to_dict()
