"""Several ranks on hosts without a GPU, which MMEngine cannot start by itself.

MMEngine's ``init_dist`` calls ``torch.cuda.set_device`` and its Runner hands ``device_ids`` to
DistributedDataParallel; both fail on a CPU. The Runner leaves a process group alone that exists
already, so :func:`setup` creates it (gloo) and configures a wrapper without ``device_ids``. With
GPUs MMEngine goes its own way (NCCL).
"""

import atexit
import datetime
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import MODEL_WRAPPERS
from torch.nn.parallel import DistributedDataParallel

#: Ways to start the ranks, as in MMEngine.
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')

_SYNC_BN = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')


def setup(cfg: Config, launcher: str, *, training: bool = True) -> None:
    """Prepare ``cfg`` and the process for ``launcher``; call it right before the Runner is built.

    Sets ``cfg.launcher`` and, for slurm and mpi, RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
    MASTER_ADDR and MASTER_PORT in the environment. A ``cfg.model_wrapper_cfg`` of the DDP family
    gets ``cfg.find_unused_parameters``. Without a GPU it then joins a gloo group (blocks until all
    ranks are there, at most ``env_cfg.dist_cfg.timeout`` seconds), gives each rank its share of the
    cores and fills ``cfg.model_wrapper_cfg``. The group is destroyed when the process exits.
    torchrun itself sets OMP_NUM_THREADS=1, which is kept.

    Args:
        cfg: Config of a Runner; changed in place.
        launcher: One of :data:`LAUNCHERS`. ``'none'`` is one process.
        training: Whether the run trains. SyncBN cannot train on a CPU, but it can be evaluated.

    Raises:
        ValueError: ``launcher`` is unknown, its environment is incomplete, a host has more ranks
            than GPUs, or SyncBN is to be trained on CPU ranks.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f'launcher must be one of {", ".join(LAUNCHERS)}, got {launcher!r}')
    cfg.launcher = launcher
    if launcher == 'none':
        return
    dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    environment = launcher_environment(launcher, os.environ, port=dist_cfg.get('port'))
    device = get_device()
    if device == 'cuda':
        _check_gpus(int(environment['LOCAL_WORLD_SIZE']))
    elif device == 'cpu' and training:
        _refuse_sync_bn(cfg)
    os.environ.update(environment)
    _configure_wrapper(cfg, device)
    if device == 'cpu':
        _share_cores(int(environment['LOCAL_WORLD_SIZE']))
        if not dist.is_initialized():
            timeout = dist_cfg.get('timeout')
            options = {} if timeout is None else {'timeout': datetime.timedelta(seconds=timeout)}
            dist.init_process_group('gloo', init_method='env://', **options)
        print_log(
            f'No GPU: rank {dist.get_rank()} of {dist.get_world_size()} runs on the CPU (gloo) '
            f'with {torch.get_num_threads()} thread(s).',
            logger='current',
        )
    atexit.unregister(cleanup)
    atexit.register(cleanup)


def ranks_started(environ: Mapping[str, str] = os.environ) -> int:
    """How many ranks this run has, before :func:`setup`: what its launcher has noted, else 1."""
    # SLURM_NTASKS is also there in a shell that only has an allocation.
    names = ('WORLD_SIZE', 'SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')
    return next((int(environ[name]) for name in names if name in environ), 1)


def cleanup() -> None:
    """Destroy the process group if there is one; never waits for other ranks that failed."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    # After an error the others may sit in a collective, and tearing NCCL down would wait for them;
    # the end of the process frees it as well.
    if getattr(sys, 'last_value', None) is not None and dist.get_backend() == 'nccl':
        return
    dist.destroy_process_group()


def launcher_environment(
    launcher: str, environ: Mapping[str, str], port: int | None = None
) -> dict[str, str]:
    """Translate the variables of a launcher into those of torch's ``env://``.

    Args:
        launcher: ``'pytorch'``, ``'slurm'`` or ``'mpi'`` (Open MPI).
        environ: Environment to read. For slurm and mpi, MASTER_ADDR in it wins over the launcher's
            and MASTER_PORT over the default.
        port: Port of rank 0 for slurm and mpi, MMEngine's ``env_cfg.dist_cfg.port``; it wins over
            MASTER_PORT.

    Returns:
        dict: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Raises:
        ValueError: A variable is missing; the message says which and how to start the ranks.
    """
    if launcher == 'pytorch':
        start = 'start the ranks with tools/dist_train.sh or torchrun'
        found = {
            name: _variable(environ, name, launcher, start)
            for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
        }
        # Only torchrun sets it. Without it, all that is known is that this rank is on the host.
        known = str(int(found['LOCAL_RANK']) + 1)
        return {**found, 'LOCAL_WORLD_SIZE': environ.get('LOCAL_WORLD_SIZE', known)}
    if launcher == 'slurm':
        start = 'start the ranks with tools/slurm_train.sh or srun'
        rank, size, local = (
            _variable(environ, f'SLURM_{name}', launcher, start)
            for name in ('PROCID', 'NTASKS', 'LOCALID')
        )
        # A step may use fewer nodes than its job; rank 0 is on the first node of the step.
        nodes = environ.get('SLURM_STEP_NODELIST')
        address = first_host(nodes or _variable(environ, 'SLURM_NODELIST', launcher, start))
        # As in '4(x2),3'; srun always sets it.
        per_node = re.sub(r'\(x\d+\)', '', environ.get('SLURM_STEP_TASKS_PER_NODE', size))
        local_size = str(max(int(count) for count in per_node.split(',')))
        # Two jobs on one node must not meet on one port; all ranks know the job's number.
        default_port = 29500 + int(environ.get('SLURM_JOB_ID', 0)) % 1000
    else:
        start = 'start the ranks with mpirun of Open MPI'
        rank, size, local, local_size = (
            _variable(environ, f'OMPI_COMM_WORLD_{name}', launcher, start)
            for name in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')
        )
        address = '127.0.0.1' if local_size == size else ''
        default_port = 29500
    address = environ.get('MASTER_ADDR', address)
    if not address:
        raise ValueError(
            f'launcher {launcher!r} on several hosts needs the environment variable MASTER_ADDR, '
            'the address of rank 0: mpirun -x MASTER_ADDR=<host>'
        )
    return {
        'RANK': rank,
        'WORLD_SIZE': size,
        'LOCAL_RANK': local,
        'LOCAL_WORLD_SIZE': local_size,
        'MASTER_ADDR': address,
        'MASTER_PORT': str(port) if port else environ.get('MASTER_PORT', str(default_port)),
    }


def first_host(nodelist: str) -> str:
    """Return the first host of a SLURM node list: ``'n[03-05,9]-ib,m1'`` gives ``'n03-ib'``."""
    first = re.split(r',(?![^\[]*\])', nodelist, maxsplit=1)[0]
    return re.sub(r'\[(\w+)[^\]]*\]', r'\1', first)


def _variable(environ: Mapping[str, str], name: str, launcher: str, start: str) -> str:
    if name not in environ:
        raise ValueError(
            f'launcher {launcher!r} needs the environment variable {name}, which is not set: '
            f'{start}'
        )
    return environ[name]


def _check_gpus(local_size: int) -> None:
    gpus = torch.cuda.device_count()
    if local_size > gpus:
        raise ValueError(
            f'{local_size} ranks on a host where each sees {gpus} GPU(s), but every rank needs a '
            f'GPU of its own: start at most {gpus}, let all ranks of a host see all its GPUs, or '
            "set CUDA_VISIBLE_DEVICES='' to run the ranks on the CPU"
        )


def _refuse_sync_bn(cfg: Config) -> None:
    where = [('sync_bn', 'None')] if cfg.get('sync_bn') is not None else []
    where += [(key, 'BN') for key in _sync_bn_keys(cfg.get('model'), 'model')]
    if where:
        options = ' '.join(f'{key}={value}' for key, value in where)
        raise ValueError(
            'SyncBN exchanges its statistics between GPUs and cannot train on CPU ranks; '
            f'use plain batch norm: --cfg-options {options}'
        )


def _sync_bn_keys(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        kind = node.get('type')
        name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
        if name.rpartition('.')[2] in _SYNC_BN:
            yield f'{path}.type'
        for key, value in node.items():
            yield from _sync_bn_keys(value, f'{path}.{key}')
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _sync_bn_keys(value, f'{path}.{index}')


def _share_cores(local_size: int) -> None:
    if 'OMP_NUM_THREADS' in os.environ:
        return
    has_affinity = hasattr(os, 'sched_getaffinity')
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    threads = max(1, cores // local_size)
    torch.set_num_threads(threads)
    # The Runner would otherwise put 1 here, with a warning, for what is started from now on.
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ.setdefault(name, str(threads))


def _configure_wrapper(cfg: Config, device: str) -> None:
    wrapper = cfg.get('model_wrapper_cfg')
    find_unused = cfg.get('find_unused_parameters', False)
    if wrapper is None:
        if device == 'cpu':
            cfg.model_wrapper_cfg = {
                'type': 'MMDistributedDataParallel',
                'device_ids': None,
                'broadcast_buffers': False,
                'find_unused_parameters': find_unused,
            }
        return
    kind = wrapper.get('type', 'MMDistributedDataParallel')
    kind = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(kind, type) and issubclass(kind, DistributedDataParallel)):
        return
    # A key that is there keeps its value. MMEngine reads the one of the config only where the
    # config has no wrapper, and fills device_ids in where they are missing.
    wrapper.setdefault('find_unused_parameters', find_unused)
    if device == 'cpu':
        wrapper.setdefault('device_ids', None)
