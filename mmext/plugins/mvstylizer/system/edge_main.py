"""Run an edge from its TOML file."""

import asyncio
import os
import signal
from pathlib import Path

import torch

from . import device, logs
from .certificates import Identity
from .cloud_link import CloudLink
from .collection import Collection
from .config import EdgeConfig, load
from .edge_server import EdgeServer
from .flower_edge import make_app
from .metrics import EdgeMetrics
from .models import ModelStore
from .revocations import Revocations
from .stylizers import VersionedStylizers
from .tokens import TokenVerifier, decode

#: How long an edge waits for the cloud before it serves with the revocations that it knows.
_FIRST_ANSWER_S = 5.0


def enroll(path: Path, code: str) -> None:
    """Trade a one-time code for this edge's token."""
    config = load(path, EdgeConfig)
    device.join(config.state, config.ca, config.cloud, code)


def serve(path: Path) -> None:
    """Serve until SIGTERM or SIGINT; then answer what was accepted and end."""
    config = load(path, EdgeConfig)
    logs.start(config.name, config.log_level)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.workers))
    asyncio.run(_serve(config))


async def _serve(config: EdgeConfig) -> None:
    models = ModelStore(config.state / 'models')
    metrics = EdgeMetrics()
    tokens = TokenVerifier(decode(config.issuer.read_text().strip()))
    revocations = Revocations(config.state / 'revoked.json')
    tokens.revoke(revocations.ids())
    collection = Collection(
        config.state / 'frames',
        config.collect.ttl_s,
        config.collect.per_device,
        config.collect.every,
    )
    server = EdgeServer(
        config.name,
        Identity(config.certificate, config.key),
        tokens,
        VersionedStylizers(config.stylizer, models),
        config.limits,
        metrics,
        config.workers,
        config.quality,
        collection,
    )
    app = make_app(config.stylizer, collection.paths, config.training) if config.train else None
    link = CloudLink(
        config.cloud,
        device.credentials(config.state, config.ca),
        config.name,
        models,
        tokens,
        app,
        metrics,
        collection,
        config.poll_s,
        on_token=lambda token: device.save_token(config.state, token),
        revocations=revocations,
    )
    if config.metrics:
        host, _, port = config.metrics.rpartition(':')
        metrics.serve(host, int(port))
    stopping = stop_signal()
    await link.start()
    # What was revoked while this edge was away counts from its first call on.
    await link.asked(_FIRST_ANSWER_S)
    await server.start(config.address)
    await stopping.wait()
    await link.stop()
    await server.stop()


def stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT."""
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    logs.event('started', pid=os.getpid())
    return event
