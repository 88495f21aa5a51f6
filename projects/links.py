"""Ranks on one machine with a real network between them: Linux network namespaces.

Each rank has a namespace with one interface, joined by a bridge; ``tc tbf`` limits the rate in both
directions. What a rank sent is read from the counter of its interface. Needs root, ``ip``, ``tc``.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_CLONE_NEWNET = 0x40000000


def missing() -> str:
    """Why namespaces cannot be used here; empty if they can."""
    for tool in ('ip', 'tc'):
        if shutil.which(tool) is None:
            return f'{tool} (iproute2) is not installed'
    name = f'tgprobe{os.getpid()}'
    try:
        _run('ip', 'netns', 'add', name)
        _run('ip', '-n', name, 'link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1')
        _run('tc', '-n', name, 'qdisc', 'add', 'dev', 'v0', 'root', *_shaping('1gbit'))
    except subprocess.CalledProcessError as error:
        return f'network namespaces: {error.stderr.strip()}'
    finally:
        subprocess.run(['ip', 'netns', 'del', name], capture_output=True)
    return ''


@contextlib.contextmanager
def namespaces(n_ranks: int, rate: str | None) -> Iterator[list[str]]:
    """Names of one namespace for each rank, joined at ``rate`` (as ``tc`` writes it; None: free).

    In each the interface is ``eth0`` with the address 10.77.0.<rank + 1>.
    """
    prefix = f'tg{os.getpid()}x'
    bridge, ranks = f'{prefix}b', [f'{prefix}{rank}' for rank in range(n_ranks)]
    made = []
    try:
        for name in (bridge, *ranks):
            _run('ip', 'netns', 'add', name)
            made.append(name)
            _run('ip', '-n', name, 'link', 'set', 'lo', 'up')
        _run('ip', '-n', bridge, 'link', 'add', 'br0', 'type', 'bridge')
        _run('ip', '-n', bridge, 'link', 'set', 'br0', 'up')
        for rank, name in enumerate(ranks):
            port = f'port{rank}'
            _run('ip', 'link', 'add', 'eth0', 'netns', name, 'type', 'veth',
                 'peer', 'name', port, 'netns', bridge)  # fmt: skip
            _run('ip', '-n', bridge, 'link', 'set', port, 'master', 'br0', 'up')
            _run('ip', '-n', name, 'addr', 'add', f'10.77.0.{rank + 1}/24', 'dev', 'eth0')
            _run('ip', '-n', name, 'link', 'set', 'eth0', 'up')
            if rate:
                for place, device in ((name, 'eth0'), (bridge, port)):
                    _run('tc', '-n', place, 'qdisc', 'add', 'dev', device, 'root', *_shaping(rate))
        yield ranks
    finally:
        for name in made:
            subprocess.run(['ip', 'netns', 'del', name], capture_output=True)


def sent_bytes() -> int:
    """Bytes that this rank's interface has sent."""
    for line in Path('/proc/self/net/dev').read_text().splitlines():
        name, *numbers = line.replace(':', ' ').split()
        if name == 'eth0':
            return int(numbers[8])
    raise RuntimeError('this process is in no namespace of `namespaces`')


def run_ranks(
    target: Callable[..., None],
    n_ranks: int,
    names: Sequence[str] = (),
    arguments: tuple = (),
    timeout: float = 540,
) -> None:
    """Fork ranks, each in its namespace if there are any, and call ``target(rank, *arguments)``.

    The ranks share this process's imports and find a gloo group of all of them made.

    Raises:
        TimeoutError: The time was up.
        torch.multiprocessing.ProcessRaisedException: A rank failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = mp.start_processes(
            _rank, (target, n_ranks, tuple(names), folder, arguments), n_ranks,
            join=False, daemon=True, start_method='fork',
        )  # fmt: skip
        deadline = time.monotonic() + timeout
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f'{n_ranks} ranks took more than {timeout} s')


def _rank(rank, target, n_ranks, names, folder, arguments) -> None:
    if names:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f'/var/run/netns/{names[rank]}') as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f'cannot enter the namespace {names[rank]}')
        os.environ['GLOO_SOCKET_IFNAME'] = 'eth0'
    # What MMEngine reads; the group itself is made here.
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n_ranks),
        LOCAL_WORLD_SIZE=str(n_ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT='0',
    )  # fmt: skip
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=n_ranks
    )
    target(rank, *arguments)
    dist.destroy_process_group()


def _shaping(rate: str) -> tuple[str, ...]:
    # A burst of 2 ms at 1 Gbit/s; the queue holds what TCP sends ahead.
    return 'tbf', 'rate', rate, 'burst', '256kb', 'latency', '100ms'


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
