"""Cloud, edges and phone as real processes on this machine, for the demo and the study."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mmext.datasets.photos import photo
from mmext.plugins.mvstylizer.system import cloud_main, device, edge_main, phone_main
from mmext.plugins.mvstylizer.system.certificates import DevelopmentCA
from mmext.plugins.mvstylizer.system.images import encode
from mmext.plugins.mvstylizer.system.tokens import TokenIssuer, public_bytes, save_key

MODULE = 'mmext.plugins.mvstylizer'
#: A stylizer that trains in seconds; its weights are those that ship with mmext.
STYLIZER = {'type': 'mmext.NeuralColorMapping'}
#: What :meth:`Deployment.counters` reads.
COUNTERS = ('mvst_keys_accepted_total', 'mvst_keys_answered_total', 'mvst_collected_frames')


def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def toml(value: Any) -> str:
    """A value of TOML: as in JSON, but for tables."""
    if isinstance(value, Mapping):
        return '{ ' + ', '.join(f'{key} = {toml(item)}' for key, item in value.items()) + ' }'
    if isinstance(value, list | tuple):
        return f'[{", ".join(map(toml, value))}]'
    return json.dumps(value, default=str)


def until(condition: Callable[[], Any], seconds: float, what: str = 'it') -> Any:
    """What a condition gives when it comes true.

    Raises:
        TimeoutError: It did not in time.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f'waited {seconds:.0f} s for {what}')
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def timed(actions: Mapping[float, Callable[[], Any]]) -> Iterator[None]:
    """Do things so many seconds after the start, as long as the block has not ended."""
    ended = threading.Event()

    def run() -> None:
        began = time.monotonic()
        for moment, action in sorted(actions.items()):
            if ended.wait(max(0.0, began + moment - time.monotonic())):
                return
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Deployment:
    """A cloud, some edges and a phone with their certificates, settings and processes.

    Args:
        folder: Everything goes here, a style picture as well; an old one is removed.
        edges: Number of edges.
        rounds: Settings of the cloud's rounds.
        training: Settings of the edges' training.
        host: Where the servers listen.
        prefix: Of the servers' command lines, as ``ip netns exec NAME``.
    """

    def __init__(
        self,
        folder: Path,
        edges: int = 2,
        rounds: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        host: str = '127.0.0.1',
        prefix: tuple[str, ...] = (),
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder, self.host, self.prefix = folder, host, prefix
        self.names = [f'edge{i}' for i in range(edges)]
        self.ports = {name: free_port() for name in ('cloud', *self.names)}
        self.metrics = {name: free_port() for name in ('cloud', *self.names)}
        self.processes: dict[str, subprocess.Popen] = {}
        self._authority = DevelopmentCA(folder / 'certificates')
        self.ca = self._authority.certificate
        self.style, held_out = folder / 'style.png', folder / 'held_out'
        self.style.write_bytes(encode(photo('china'), None))
        held_out.mkdir()
        for name in ('flower', 'rocket'):
            (held_out / f'{name}.png').write_bytes(encode(photo(name), None))
        rounds = {'every_s': 1, 'min_edges': edges, 'timeout_s': 240, **(rounds or {})}
        self._server('cloud', held_out=held_out, rounds=rounds)
        for name in self.names:
            self._server(
                name, ca=self.ca, issuer=folder / 'cloud' / 'issuer.pub', cloud=self._at('cloud'),
                poll_s=1, training=training or {}, collect={'every': 1},
            )  # fmt: skip
        self.phone()

    def phone(self, addresses: Mapping[str, str] | None = None, **settings: Any) -> Path:
        """Settings of the phone; ``addresses`` of edges may differ, as of proxies."""
        known = {name: self._at(name)['address'] for name in self.names}
        edges = [{'name': n, 'address': a} for n, a in {**known, **(addresses or {})}.items()]
        return self._write(
            'phone', state=self.folder / 'phone', ca=self.ca, cloud=self._at('cloud'),
            edges=edges, log_level='ERROR', **settings,
        )  # fmt: skip

    def path(self, name: str) -> Path:
        """TOML file of a process."""
        return self.folder / f'{name}.toml'

    def start(self, *names: str) -> None:
        """Start servers and wait until their health service says SERVING."""
        for name in names:
            kind = 'cloud' if name == 'cloud' else 'edge'
            command = [
                *self.prefix, sys.executable, '-m', f'{MODULE}.{kind}',
                '--config', str(self.path(name)),
            ]  # fmt: skip
            with open(self.folder / f'{name}.log', 'ab') as log:
                self.processes[name] = subprocess.Popen(command, stderr=log, stdout=log)
        for name in names:
            log = f'{name}, see {self.folder / name}.log'
            until(lambda name=name: self.serving(name), 240, log)

    def serving(self, name: str) -> bool:
        """What the health service of a server says.

        Raises:
            RuntimeError: The server has ended.
        """
        if self.processes[name].poll() is not None:
            raise RuntimeError(f'{name} has ended: {self.log(name)[-2000:]}')
        if self.prefix:
            # In another network; its log tells.
            return '"event": "serving"' in self.log(name)
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        options = (('grpc.ssl_target_name_override', name), ('grpc.enable_http_proxy', 0))
        address = self._at(name)['address']
        with grpc.secure_channel(address, credentials, options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.RpcError:
                return False
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    def up(self) -> None:
        """Start all servers, all devices enrolled."""
        if self.prefix:
            # The cloud cannot be asked from this network: tokens by hand.
            for name in (*self.names, 'phone'):
                key, token = self.token(name, 'phone' if name == 'phone' else 'edge')
                save_key(key, self.folder / name / 'device.key')
                device.save_token(self.folder / name, token)
            self.start('cloud', *self.names)
            return
        self.start('cloud')
        cloud = self.path('cloud')
        for name in self.names:
            edge_main.enroll(self.path(name), cloud_main.enroll_code(cloud, name, 'edge'))
        phone_main.enroll(self.path('phone'), cloud_main.enroll_code(cloud, 'phone', 'phone'))
        self.start(*self.names)

    def token(self, name: str, role: str) -> tuple[Ed25519PrivateKey, str]:
        """Key and token of a device that did not ask the cloud."""
        issuer = TokenIssuer(cloud_main.issuer_key(self.folder / 'cloud'))
        key = Ed25519PrivateKey.generate()
        return key, issuer.issue(name, role, public_bytes(key), 86400)

    def revive(self) -> None:
        """Start the servers that were killed."""
        self.start(*(name for name in ('cloud', *self.names) if name not in self.processes))

    def kill(self, name: str) -> None:
        """Kill a server without warning."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def down(self) -> None:
        """Ask all servers to end."""
        while self.processes:
            _, process = self.processes.popitem()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def counters(self, name: str) -> dict[str, float]:
        """Some of what a server tells Prometheus."""
        address = f'http://127.0.0.1:{self.metrics[name]}/metrics'
        with urllib.request.urlopen(address, timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        pairs = (line.rsplit(' ', 1) for line in lines if line.startswith(COUNTERS))
        return {key.removeprefix('mvst_'): float(value) for key, value in pairs}

    def log(self, name: str) -> str:
        """What a server has logged."""
        path = self.folder / f'{name}.log'
        return path.read_text() if path.exists() else ''

    @contextlib.contextmanager
    def slowed(self, name: str, times: float, after_s: float = 0) -> Iterator[None]:
        """Let a server run only one part of the time in ``times``, from a moment on."""
        period_s = 0.2
        process, ended = self.processes[name], threading.Event()

        def brake() -> None:
            ended.wait(after_s)
            while not ended.wait(period_s / times):
                os.kill(process.pid, signal.SIGSTOP)
                ended.wait(period_s * (1 - 1 / times))
                os.kill(process.pid, signal.SIGCONT)

        thread = threading.Thread(target=brake, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _at(self, name: str) -> dict[str, str]:
        return {'name': name, 'address': f'{self.host}:{self.ports[name]}'}

    def _server(self, name: str, **settings: Any) -> None:
        identity = self._authority.issue(name, [name])
        self._write(
            name, **self._at(name), certificate=identity.certificate, key=identity.key,
            state=self.folder / name, metrics=f'127.0.0.1:{self.metrics[name]}',
            stylizer=STYLIZER, **settings,
        )  # fmt: skip

    def _write(self, file: str, **settings: Any) -> Path:
        path = self.path(file)
        path.write_text(''.join(f'{key} = {toml(item)}\n' for key, item in settings.items()))
        return path
