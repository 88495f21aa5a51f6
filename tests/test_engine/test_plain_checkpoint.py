"""Checkpoints without objects: they load anywhere and resume as before."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmext.engine.plain import from_plain, to_plain

PLAIN = [{'type': 'mmext.IterSeedHook'}, {'type': 'mmext.PlainCheckpointHook'}]


def saved(tmp_path, value):
    torch.save(to_plain(value), tmp_path / 'x.pth')
    return torch.load(tmp_path / 'x.pth', weights_only=True)


def test_everything_comes_back(tmp_path):
    buffer = HistoryBuffer([1.5, 2.5], [1, 3], max_length=7)
    value = OrderedDict(
        log={'loss': buffer}, palette=[(1, 2), np.arange(6.0).reshape(2, 3).T], none=None,
        best=np.float64(0.5), flag=np.bool_(True), ints=np.arange(3),
    )  # fmt: skip
    again = from_plain(saved(tmp_path, value))
    assert type(again) is OrderedDict and list(again) == list(value)
    assert isinstance(again['log']['loss'], HistoryBuffer)
    for one, other in zip(again['log']['loss'].data, buffer.data, strict=True):
        assert one.dtype == other.dtype and (one == other).all()
    assert again['log']['loss'].max_length == 7 and again['log']['loss'].mean() == buffer.mean()
    assert again['palette'][0] == (1, 2) and (again['palette'][1] == value['palette'][1]).all()
    assert again['best'] == 0.5 and type(again['best']) is float and again['flag'] is True
    assert again['ints'].dtype == value['ints'].dtype and again['none'] is None
    # The log goes on.
    again['log']['loss'].update(3.5)
    assert again['log']['loss'].current() == 3.5


def test_an_empty_history_comes_back(tmp_path):
    again = from_plain(saved(tmp_path, HistoryBuffer()))
    assert len(again.data[0]) == 0


def test_other_objects_stay_and_are_refused(tmp_path):
    with pytest.raises(Exception, match='weights_only|Unsupported'):
        saved(tmp_path, {'x': object})


def test_a_run_writes_plain_checkpoints_and_resumes_with_its_log(toy_runner, tmp_path):
    whole = toy_runner(6, work_dir=tmp_path / 'whole', custom_hooks=PLAIN)
    whole.train()
    objects = toy_runner(6, work_dir=tmp_path / 'objects', custom_hooks=PLAIN[:1])
    objects.train()
    path = tmp_path / 'whole' / 'iter_3.pth'
    plain = torch.load(path, weights_only=True)
    assert plain['meta']['iter'] == 3
    with pytest.raises(Exception, match='HistoryBuffer'):
        torch.load(tmp_path / 'objects' / 'iter_3.pth', weights_only=True)
    resumed = toy_runner(
        6, work_dir=tmp_path / 'resumed', custom_hooks=PLAIN, resume=True, load_from=str(path)
    )
    resumed.train()
    for one, other in zip(
        resumed.model.state_dict().values(), objects.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    logs = [run.message_hub.log_scalars['train/loss'].data[0] for run in (resumed, objects)]
    assert len(logs[0]) == 6 and (logs[0] == logs[1]).all()


def test_without_the_hook_a_plain_checkpoint_still_resumes(toy_runner, tmp_path):
    toy_runner(3, work_dir=tmp_path / 'half', custom_hooks=PLAIN).train()
    path = str(tmp_path / 'half' / 'iter_3.pth')
    resumed = toy_runner(
        6, work_dir=tmp_path / 'r', custom_hooks=PLAIN[:1], resume=True, load_from=path
    )
    resumed.train()
    whole = toy_runner(6, work_dir=tmp_path / 'whole', custom_hooks=PLAIN[:1])
    whole.train()
    for one, other in zip(
        resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_functions_of_schedulers_are_left_out_and_the_rate_goes_on(toy_runner, tmp_path):
    cycle = {'type': 'OneCycleLR', 'eta_max': 0.01, 'total_steps': 6, 'by_epoch': False}
    settings = dict(custom_hooks=PLAIN, param_scheduler=cycle)
    whole = toy_runner(6, work_dir=tmp_path / 'whole', **settings)
    whole.train()
    path = tmp_path / 'whole' / 'iter_3.pth'
    states = torch.load(path, weights_only=True)['param_schedulers']
    assert 'total_steps' in states[0] and 'anneal_func' not in states[0]
    resumed = toy_runner(
        6, work_dir=tmp_path / 'resumed', resume=True, load_from=str(path), **settings
    )
    resumed.train()
    for one, other in zip(
        resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
