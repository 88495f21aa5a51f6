import os
import socket
import sys

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel

from mmext.compat import distributed

TORCHRUN = {
    'RANK': '3',
    'WORLD_SIZE': '4',
    'LOCAL_RANK': '1',
    'LOCAL_WORLD_SIZE': '2',
    'MASTER_ADDR': 'host0',
    'MASTER_PORT': '1234',
}
SLURM = {
    'SLURM_PROCID': '5',
    'SLURM_NTASKS': '7',
    'SLURM_LOCALID': '1',
    'SLURM_NODELIST': 'n[07-08,11]',
    'SLURM_STEP_TASKS_PER_NODE': '2(x2),3',
    'SLURM_JOB_ID': '123456',
}
MPI = {f'OMPI_COMM_WORLD_{key}': '2' for key in ('SIZE', 'LOCAL_SIZE')} | {
    f'OMPI_COMM_WORLD_{key}': '1' for key in ('RANK', 'LOCAL_RANK')
}


# What a wrapper of the DDP family gets on a CPU.
FILLED = {'device_ids': None, 'find_unused_parameters': False}


@pytest.fixture
def one_rank(monkeypatch):
    """Environment of the only rank of a torchrun on a host without GPU."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    environ = {
        **{'RANK': '0', 'WORLD_SIZE': '1', 'LOCAL_RANK': '0', 'LOCAL_WORLD_SIZE': '1'},
        **{'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'OMP_NUM_THREADS': '1'},
    }
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    yield environ
    distributed.cleanup()


def test_first_host_of_a_node_list():
    assert distributed.first_host('n1') == 'n1'
    assert distributed.first_host('n1,m[2-3]') == 'n1'
    assert distributed.first_host('n[03-05,9]-ib,m1') == 'n03-ib'
    assert distributed.first_host('r[1-2]n[008,010]') == 'r1n008'


def test_environment_of_each_launcher():
    assert distributed.launcher_environment('pytorch', TORCHRUN) == TORCHRUN
    assert distributed.launcher_environment('slurm', SLURM) == {
        **{'RANK': '5', 'WORLD_SIZE': '7', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '3'},
        **{'MASTER_ADDR': 'n07', 'MASTER_PORT': str(29500 + 456)},
    }
    assert distributed.launcher_environment('mpi', MPI) == {
        **{'RANK': '1', 'WORLD_SIZE': '2', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2'},
        **{'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29500'},
    }


def test_master_of_the_environment_and_port_of_the_config_win():
    given = {**SLURM, 'MASTER_ADDR': 'n08', 'MASTER_PORT': '111'}
    found = distributed.launcher_environment('slurm', given)
    assert (found['MASTER_ADDR'], found['MASTER_PORT']) == ('n08', '111')
    assert distributed.launcher_environment('slurm', given, port=222)['MASTER_PORT'] == '222'
    # A step on one node of a job that has more.
    step = {**SLURM, 'SLURM_STEP_NODELIST': 'n11'}
    assert distributed.launcher_environment('slurm', step)['MASTER_ADDR'] == 'n11'


@pytest.mark.parametrize(
    ('launcher', 'environ', 'lost', 'fix'),
    [
        ('pytorch', TORCHRUN, 'MASTER_ADDR', 'dist_train.sh'),
        ('slurm', SLURM, 'SLURM_LOCALID', 'srun'),
        ('slurm', SLURM, 'SLURM_NODELIST', 'srun'),
        ('mpi', MPI, 'OMPI_COMM_WORLD_SIZE', 'mpirun'),
    ],
)
def test_a_missing_variable_is_named(launcher, environ, lost, fix):
    environ = {key: value for key, value in environ.items() if key != lost}
    with pytest.raises(ValueError, match=f'{lost}, .*{fix}'):
        distributed.launcher_environment(launcher, environ)


def test_mpi_on_several_hosts_needs_the_master():
    with pytest.raises(ValueError, match='MASTER_ADDR'):
        distributed.launcher_environment('mpi', {**MPI, 'OMPI_COMM_WORLD_LOCAL_SIZE': '1'})


def test_unknown_launcher():
    with pytest.raises(ValueError, match="'torchrun'"):
        distributed.setup(Config(), 'torchrun')


def test_cpu_rank_joins_gloo_and_leaves_it(one_rank, monkeypatch):
    at_exit = []
    monkeypatch.setattr(distributed.atexit, 'register', at_exit.append)
    cfg = Config({'find_unused_parameters': True, 'env_cfg': {'dist_cfg': {'backend': 'nccl'}}})
    distributed.setup(cfg, 'pytorch')
    assert dist.get_backend() == 'gloo'
    assert cfg.launcher == 'pytorch'
    assert cfg.model_wrapper_cfg == {
        'type': 'MMDistributedDataParallel',
        'device_ids': None,
        'broadcast_buffers': False,
        'find_unused_parameters': True,
    }
    # A second run in the same process, as in a notebook, uses the group that is there.
    distributed.setup(Config(), 'pytorch')
    assert set(at_exit) == {distributed.cleanup}
    at_exit[0]()
    assert not dist.is_initialized()
    distributed.cleanup()


def test_slurm_rank_joins_gloo(one_rank, monkeypatch):
    for name, value in {'PROCID': '0', 'NTASKS': '1', 'LOCALID': '0', 'NODELIST': 'n1'}.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name)
    distributed.setup(Config(), 'slurm')
    assert (dist.get_world_size(), os.environ['LOCAL_RANK']) == (1, '0')


def test_timeout_of_the_config_reaches_the_group(one_rank, monkeypatch):
    given = {}
    monkeypatch.setattr(dist, 'init_process_group', lambda *_, **options: given.update(options))
    monkeypatch.setattr(dist, 'get_rank', lambda: 0)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 1)
    distributed.setup(Config({'env_cfg': {'dist_cfg': {'timeout': 90}}}), 'pytorch')
    assert given['timeout'].total_seconds() == 90


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({'broadcast_buffers': True}, {'broadcast_buffers': True, **FILLED}),
        ({'type': 'MMDistributedDataParallel'}, FILLED),
        ({'type': 'MMSeparateDistributedDataParallel'}, FILLED),
        ({'type': MMDistributedDataParallel, 'device_ids': [0]}, {**FILLED, 'device_ids': [0]}),
        ({'type': 'DataParallel'}, {}),
    ],
)
def test_a_wrapper_of_the_user_stays(one_rank, given, expected):
    cfg = Config({'model_wrapper_cfg': dict(given)})
    distributed.setup(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg == {**given, **expected}


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_wrapper_gets_find_unused_parameters_of_the_config(one_rank, device, monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: device)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    filled = {'device_ids': None} if device == 'cpu' else {}

    def configured(**wrapper):
        cfg = Config({'find_unused_parameters': True, 'model_wrapper_cfg': wrapper})
        distributed.setup(cfg, 'pytorch')
        return cfg.model_wrapper_cfg

    ddp = {'type': 'MMDistributedDataParallel', 'broadcast_buffers': True}
    assert configured(**ddp) == {**ddp, **filled, 'find_unused_parameters': True}
    own = {**ddp, 'find_unused_parameters': False}
    assert configured(**own) == {**own, **filled}
    # FSDP has no such argument.
    sharded = {'type': 'MMFullyShardedDataParallel'}
    assert configured(**sharded) == sharded


def test_sync_bn_cannot_train_on_cpu_ranks(one_rank):
    with pytest.raises(ValueError, match='--cfg-options sync_bn=None$'):
        distributed.setup(Config({'sync_bn': 'torch'}), 'pytorch')
    model = {'backbone': {'norm_cfg': {'type': 'SyncBN'}}, 'heads': [{}, {'norm': {'type': 'BN'}}]}
    with pytest.raises(ValueError, match='--cfg-options model.backbone.norm_cfg.type=BN$'):
        distributed.setup(Config({'model': model}), 'pytorch')
    assert not dist.is_initialized()
    distributed.setup(Config({'model': model}), 'pytorch', training=False)
    # The reason: torch evaluates such a layer on the CPU but does not train it.
    layer, x = torch.nn.SyncBatchNorm(2), torch.ones(3, 2)
    assert layer.eval()(x).shape == (3, 2)
    with pytest.raises(ValueError, match='SyncBatchNorm expected input tensor to be on'):
        layer.train()(x)


def test_more_ranks_than_gpus(one_rank, monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    with pytest.raises(ValueError, match='3 ranks on a host where each sees 2 GPU'):
        distributed.setup(Config(), 'pytorch')


def test_with_gpus_mmengine_goes_its_own_way(one_rank, monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    for key in MPI:
        monkeypatch.setenv(key, '1' if key.endswith('SIZE') else '0')
    cfg = Config({'sync_bn': 'torch'})
    distributed.setup(cfg, 'mpi')
    assert not dist.is_initialized() and 'model_wrapper_cfg' not in cfg
    # MMEngine reads it for device_ids but does not set it under mpi.
    assert os.environ['LOCAL_RANK'] == '0'


def test_ranks_share_the_cores_unless_told_otherwise(one_rank, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)), raising=False)
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
    try:
        distributed._share_cores(2)
        assert torch.get_num_threads() == before  # OMP_NUM_THREADS is set
        monkeypatch.delenv('OMP_NUM_THREADS')
        distributed._share_cores(3)
        assert torch.get_num_threads() == 2
        assert os.environ['OMP_NUM_THREADS'] == '2'
    finally:
        torch.set_num_threads(before)


def test_after_an_error_nccl_is_left_to_the_end_of_the_process(one_rank, monkeypatch):
    distributed.setup(Config(), 'pytorch')
    destroyed = []
    with monkeypatch.context() as patch:
        patch.setattr(dist, 'destroy_process_group', lambda: destroyed.append(1))
        patch.setattr(dist, 'get_backend', lambda: 'nccl')
        patch.setattr(sys, 'last_value', RuntimeError(), raising=False)
        distributed.cleanup()
        assert destroyed == []
        patch.setattr(dist, 'get_backend', lambda: 'gloo')
        distributed.cleanup()
        assert destroyed == [1]


def test_the_ranks_that_a_launcher_notes():
    assert distributed.ranks_started({}) == 1
    # An allocation alone starts nothing.
    assert distributed.ranks_started({'SLURM_NTASKS': '8'}) == 1
    assert distributed.ranks_started({'SLURM_NTASKS': '8', 'SLURM_STEP_NUM_TASKS': '8'}) == 8
    assert distributed.ranks_started({'WORLD_SIZE': '2', 'OMPI_COMM_WORLD_SIZE': '4'}) == 2
