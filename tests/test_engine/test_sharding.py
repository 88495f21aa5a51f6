"""FSDP2 in two real processes (gloo) against DistributedDataParallel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharding_rank_worker as worker
import torch
from mmengine.config import Config
from torch import nn

from mmext import launch
from mmext.engine import sharding
from mmext.testing import hosts
from mmext.testing.trial import first_difference, quick, shorten

HERE = Path(__file__).resolve().parent


def both_ranks(part, out):
    """What each rank has written."""
    command = [
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
        str(HERE / 'sharding_rank_worker.py'), part, str(out),
    ]  # fmt: skip
    paths = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    environment = {**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1',
                   'CUDA_VISIBLE_DEVICES': ''}  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    said = [line for line in done.stderr.splitlines() if line.startswith('[rank')]
    assert done.returncode == 0, '\n'.join(said[-40:])
    return [torch.load(out / f'rank{rank}.pth', weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    return tmp_path_factory.mktemp('sharding')


@pytest.fixture(scope='module')
def ranks(out):
    return both_ranks('small', out)


def trained(state):
    """Without the statistics of batch norm, which each rank has of its own."""
    return {k: v for k, v in state.items() if 'running' not in k and 'num_batches' not in k}


def assert_close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', worker.RUNS)
def test_sharded_run_equals_ddp(ranks, name):
    for rank in ranks:
        plain, sharded = rank['runs'][name]
        assert first_difference(plain['start'], sharded['start']) is None
        assert_close(sharded['end'], plain['end'])
        assert sharded['losses'] == pytest.approx(plain['losses'], rel=1e-5)
        assert sharded['norms'] == pytest.approx(plain['norms'], rel=1e-5)
        assert len(sharded['norms']) == 4 * ('clip_grad' in worker.RUNS[name][1])
        start = trained(sharded['start'])
        assert max(float((sharded['end'][k] - v).abs().max()) for k, v in start.items()) > 1e-3
    first, second = (rank['runs'][name][1] for rank in ranks)
    assert first_difference(trained(first['end']), trained(second['end'])) is None
    # Each rank holds about half, together all.
    held = [run['held'] for run in (first, second)]
    assert sum(held) == ranks[0]['runs'][name][0]['held'] and max(held) < 0.53 * sum(held)


def test_force_and_clipping_have_an_effect(ranks):
    ends = {name: run[1]['end']['conv.weight'] for name, run in ranks[0]['runs'].items()
            if 'conv.weight' in run[1]['end']}  # fmt: skip
    for name in ('force', 'clipped', 'accumulated'):
        assert (ends[name] - ends['plain']).abs().max() > 1e-4, name


def test_gradients_stay_on_their_rank_until_the_update(ranks):
    for rank in ranks:
        found = rank['runs']['accumulated'][1]['has_gradients']
        assert [any(some) for some in found] == [all(some) for some in found]
        assert [any(some) for some in found] == [False, True, False, True]


def test_resumed_sharded_run_is_exact(ranks):
    for rank in ranks:
        whole, resumed = rank['runs']['plain'][1], rank['resumed'][True, True]
        assert first_difference(trained(whole['end']), trained(resumed['end'])) is None
        assert resumed['losses'] == whole['losses'][2:]


def test_last_checkpoints_are_exact(ranks, out):
    names = ('run0-1', 'resumed-11')
    first, second = (torch.load(out / name / 'iter_4.pth', weights_only=True) for name in names)
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert first_difference(first[part], second[part]) is None


@pytest.mark.parametrize('way', [(True, False), (False, True)], ids=['sharded first', 'ddp first'])
def test_runs_resume_each_other(ranks, way):
    for rank in ranks:
        assert_close(trained(rank['resumed'][way]['end']), trained(rank['runs']['plain'][0]['end']))


@pytest.mark.parametrize('run', [list(worker.RUNS).index(name) for name in ('plain', 'adamw')])
def test_checkpoints_have_the_format_of_ddp(ranks, out, run):
    """Whole plain tensors of the same names, shapes and kinds, scalars as scalars."""
    plain, sharded = (
        torch.load(out / f'run{run}-{shard}' / 'iter_3.pth', weights_only=True) for shard in (0, 1)
    )
    assert plain.keys() == sharded.keys()
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_close(_numbers(sharded[part]), _numbers(plain[part]))


def _numbers(node):
    """Nested tensors and numbers of a checkpoint, whose types must agree."""
    if isinstance(node, dict):
        return {str(key): _numbers(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_numbers(value) for value in node]
    if isinstance(node, torch.Tensor):
        assert type(node) is torch.Tensor
        return node.double()
    return float(node) if isinstance(node, bool | int | float) else float(len(str(node)))


def test_sharded_checkpoint_evaluates_equal_without_sharding(ranks, out, tmp_path):
    checkpoint = out / 'validated' / 'iter_4.pth'
    with quick():
        cfg = worker.config(tmp_path, 'tested', 'ImageClassifier', {}, [], validate=True)
        launch.prepare_test(cfg, str(checkpoint), work_dir=str(tmp_path))
        runner = launch.build_runner(cfg)
        metrics = runner.test()
    logged = ranks[0]['validated']['metrics']
    assert metrics == {key.removeprefix('val/'): value for key, value in logged.items()}
    found = {name: value.squeeze() for name, value in runner.model.state_dict().items()}
    assert first_difference(found, ranks[0]['validated']['end']) is None
    assert len(metrics) == 2
    # It was written once more after the validation, to name the best one.
    assert torch.load(checkpoint, weights_only=True)['meta']['iter'] == 4


def test_noise_is_one_draw_over_the_shards_and_leaves_no_trace(ranks):
    first, second = (rank['noise'] for rank in ranks)
    assert first_difference(first['seen'], second['seen']) is None
    assert all(first['restored']) and all(second['restored']) and len(first['restored']) == 4
    noisy = []
    for seen, clean in zip(first['seen'], first['clean'], strict=True):
        norms = (seen - clean).norm(dim=1) / clean.norm(dim=1)
        # One rank has two rows and the other one: filters are whole, and one coin is tossed.
        wanted = torch.full((3,), 0.05) if norms[0] else torch.zeros(3)
        torch.testing.assert_close(norms, wanted, rtol=1e-3, atol=0)
        noisy.append(bool(norms[0]))
    assert len(set(noisy)) == 2


@pytest.mark.parametrize('name', worker.REFUSED)
def test_what_needs_whole_weights_is_refused(ranks, name):
    for rank in ranks:
        found = rank['refused'][name]
        assert name in found and 'MMDistributedDataParallel' in found and 'shard' in found


@pytest.mark.slow
def test_cst_trains_on_shards(tmp_path):
    for rank in both_ranks('cst', tmp_path):
        plain, sharded = rank['runs']
        assert_close(trained(sharded['end']), trained(plain['end']))
        assert sharded['losses'] == pytest.approx(plain['losses'], rel=1e-4)
        assert sharded['metrics'] == pytest.approx(plain['metrics'], rel=1e-4)
        assert len(sharded['metrics']) == 1 and sharded['held'] < 0.53 * plain['held']
        assert first_difference(trained(rank['resumed']['end']), trained(sharded['end'])) is None


def test_units():
    def block():
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))  # 40 + 36 parameters

    model = nn.Module()
    model.stem = nn.Linear(2, 4)
    model.blocks = nn.ModuleList([block(), block()])
    model.head = worker._Head()
    model.attention = nn.MultiheadAttention(8, 2)
    model.one, model.two = nn.Linear(8, 8), nn.Linear(8, 8)
    model.two.weight = model.one.weight
    assert list(sharding.units(model, 60)) == ['blocks.0', 'blocks.1', 'head.fc']
    assert list(sharding.units(model, 38)) == ['blocks.0.0', 'blocks.1.0', 'head.fc']
    assert list(sharding.units(model, 30)) == [
        'blocks.0.0', 'blocks.0.1', 'blocks.1.0', 'blocks.1.1', 'head.fc',
    ]  # fmt: skip
    assert sharding.units(model, 10**6) == {}


def runner_of(tmp_path, **changes):
    cfg = Config({**hosts.classifier(tmp_path).to_dict(), 'runner_type': 'mmext.ShardedRunner'})
    shorten(cfg, tmp_path, 'alone', 1)
    cfg.update(changes)
    with quick():
        return launch.build_runner(cfg)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match='dist_train.sh CONFIG N --shard'):
        launch.prepare(hosts.classifier(tmp_path), work_dir=str(tmp_path), shard=True)
    with pytest.raises(ValueError, match='min_params=0'):
        sharding.FSDP2Strategy(min_params=0, work_dir=str(tmp_path))
    with pytest.raises(ValueError, match='does not take compile'):
        runner_of(tmp_path, compile=True)
    with pytest.raises(RuntimeError, match='there are none'):
        runner_of(tmp_path).train()
