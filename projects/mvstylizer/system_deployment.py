"""Cloud, edges and phone as real processes on this machine, for the demo and the study."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mmext.datasets.photos import photo
from mmext.plugins.mvstylizer.system import cloud_main, device, edge_main, phone_main
from mmext.plugins.mvstylizer.system.certificates import DevelopmentCA
from mmext.plugins.mvstylizer.system.link import Target
from mmext.plugins.mvstylizer.system.tokens import TokenIssuer, public_bytes, save_key

MODULE = 'mmext.plugins.mvstylizer'
#: A stylizer that trains in seconds; its weights are those that ship with mmext.
STYLIZER = {'type': 'mmext.NeuralColorMapping'}


def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def toml(table: Mapping[str, Any]) -> str:
    """Nested dictionaries as TOML."""

    def value(item) -> str:
        if isinstance(item, bool):
            return str(item).lower()
        if isinstance(item, str | Path):
            return '"' + str(item).replace('\\', '\\\\').replace('"', '\\"') + '"'
        if isinstance(item, Mapping):
            return '{ ' + ', '.join(f'{k} = {value(v)}' for k, v in item.items()) + ' }'
        if isinstance(item, list | tuple):
            return '[' + ', '.join(value(v) for v in item) + ']'
        return repr(item)

    return ''.join(f'{key} = {value(item)}\n' for key, item in table.items())


class Deployment:
    """A cloud, some edges and a phone with their certificates, settings and processes.

    Args:
        folder: Everything goes here; an old one is removed.
        edges: Number of edges.
        stylizer: Of edges and cloud.
        rounds: Settings of the cloud's rounds.
        training: Settings of the edges' training.
        limits: Of the edges.
        host: Where the servers listen.
        prefix: Of the servers' command lines, as ``ip netns exec NAME``.
    """

    def __init__(
        self,
        folder: Path,
        edges: int = 2,
        stylizer: Mapping[str, Any] = STYLIZER,
        rounds: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        host: str = '127.0.0.1',
        prefix: tuple[str, ...] = (),
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.host = host
        self.prefix = prefix
        self.names = [f'edge{i}' for i in range(edges)]
        self.ports = {name: free_port() for name in ('cloud', *self.names)}
        self.metrics = {name: free_port() for name in ('cloud', *self.names)}
        self.processes: dict[str, subprocess.Popen] = {}
        ca = DevelopmentCA(folder / 'certificates')
        self.ca = ca.certificate
        held_out = folder / 'held_out'
        held_out.mkdir()
        for name in ('flower', 'rocket'):
            image = cv2.cvtColor(photo(name), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(held_out / f'{name}.png'), image)
        identity = ca.issue('cloud', ['cloud'])
        self._write(
            'cloud',
            name='cloud',
            address=f'{host}:{self.ports["cloud"]}',
            certificate=identity.certificate,
            key=identity.key,
            state=folder / 'cloud',
            held_out=held_out,
            metrics=f'127.0.0.1:{self.metrics["cloud"]}',
            stylizer=stylizer,
            rounds={'every_s': 1, 'min_edges': edges, 'timeout_s': 240, **(rounds or {})},
        )
        for name in self.names:
            identity = ca.issue(name, [name])
            self._write(
                name,
                name=name,
                address=f'{host}:{self.ports[name]}',
                certificate=identity.certificate,
                key=identity.key,
                state=folder / name,
                ca=self.ca,
                issuer=folder / 'cloud' / 'issuer.pub',
                cloud=self._at('cloud'),
                metrics=f'127.0.0.1:{self.metrics[name]}',
                poll_s=1,
                stylizer=stylizer,
                training=training or {},
                limits=limits or {},
                collect={'every': 1},
            )

    def phone(self, addresses: Mapping[str, str] | None = None, **settings: Any) -> Path:
        """Settings of the phone; ``addresses`` of edges may differ, as of proxies."""
        addresses = addresses or {}
        return self._write(
            'phone',
            state=self.folder / 'phone',
            ca=self.ca,
            cloud=self._at('cloud'),
            edges=[
                {'name': name, 'address': addresses.get(name, self._at(name)['address'])}
                for name in self.names
            ],
            log_level='ERROR',
            **settings,
        )

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
            self.wait(name)

    def wait(self, name: str, seconds: float = 240) -> None:
        """Wait for a server.

        Raises:
            RuntimeError: It has ended, or was not there in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.processes[name].poll() is not None:
                raise RuntimeError(f'{name} has ended: {self.log(name)[-2000:]}')
            if self.serving(name):
                return
            time.sleep(0.2)
        raise RuntimeError(f'{name} was not there after {seconds} s: {self.log(name)[-2000:]}')

    def serving(self, name: str) -> bool:
        """What the health service of a server says."""
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

    def enroll(self) -> None:
        """Enrol the edges and the phone by one-time codes; the cloud must run."""
        for name in self.names:
            edge_main.enroll(self.path(name), self.code(name, 'edge'))
        if not self.path('phone').exists():
            self.phone()
        phone_main.enroll(self.path('phone'), self.code('phone', 'phone'))

    def code(self, device: str, role: str) -> str:
        """A new one-time code."""
        return cloud_main.enroll_code(self.path('cloud'), device, role)

    def up(self) -> None:
        """Start all servers, all devices enrolled."""
        if self.prefix:
            # The cloud cannot be asked from this network: tokens by hand.
            for name in (*self.names, 'phone'):
                self.hand_token(name, 'phone' if name == 'phone' else 'edge')
            self.start('cloud', *self.names)
            return
        self.start('cloud')
        self.enroll()
        self.start(*self.names)

    def hand_token(self, name: str, role: str) -> None:
        """Give a device a key and a token without asking the cloud."""
        issuer = TokenIssuer(cloud_main.issuer_key(self.folder / 'cloud'))
        key, state = Ed25519PrivateKey.generate(), self.folder / name
        save_key(key, state / 'device.key')
        device.save_token(state, issuer.issue(name, role, public_bytes(key), 86400))

    def kill(self, name: str) -> None:
        """Kill a server without warning."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> int:
        """Ask a server to end; return its code."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def down(self) -> None:
        """Stop all servers."""
        for name in list(self.processes):
            self.stop(name)

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
        target = Target(name, f'{self.host}:{self.ports[name]}')
        return {'name': target.name, 'address': target.address}

    def _write(self, file: str, **settings: Any) -> Path:
        path = self.path(file)
        path.write_text(toml(settings))
        return path
