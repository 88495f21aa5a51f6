"""Run the cloud, or one of its commands, from its TOML file."""

import asyncio
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import logs
from .aggregation import State
from .certificates import Identity
from .cloud_server import CloudServer
from .config import CloudConfig, load
from .edge_main import stop_signal
from .federation import Federation
from .local_training import build_trainable, held_out_loss
from .models import ModelStore
from .revocations import Revocations
from .tokens import (
    EnrolmentCodes,
    TokenIssuer,
    TokenVerifier,
    encode,
    load_key,
    public_bytes,
    save_key,
)


def issuer_key(state: Path) -> Ed25519PrivateKey:
    """The key that signs tokens, made at first use; its public half lies beside it."""
    path = state / 'issuer.key'
    if not path.exists():
        save_key(Ed25519PrivateKey.generate(), path)
    key = load_key(path)
    (state / 'issuer.pub').write_text(encode(public_bytes(key)) + '\n')
    return key


def enroll_code(path: Path, name: str, role: str) -> str:
    """A one-time code for a device; also while the cloud runs."""
    config = load(path, CloudConfig)
    issuer_key(config.state)
    return EnrolmentCodes(config.state / 'enrolment.json').create(name, role)


def revoke(path: Path, token_id: str) -> None:
    """Revoke a token and all that renewed it.

    A running cloud and its edges take note with their next question.
    """
    Revocations(load(path, CloudConfig).state / 'revoked.json').add(token_id)


def roll_back(path: Path) -> int:
    """Publish the version that the current one was made from again; return it."""
    return ModelStore(load(path, CloudConfig).state / 'models').rollback()


def make_federation(config: CloudConfig) -> Federation:
    """Models and rounds of a cloud.

    Raises:
        ValueError: There are no held-out pictures.
    """
    pictures = sorted(
        path for path in config.held_out.glob('*') if path.suffix.lower() in ('.jpg', '.png')
    )
    if not pictures:
        raise ValueError(
            f'held_out={config.held_out} has no .jpg or .png: no model can be judged without '
            'pictures that no edge trains on'
        )

    def initial() -> State:
        return build_trainable(config.stylizer).state_dict()

    return Federation(
        ModelStore(config.state / 'models'),
        config.state,
        initial,
        lambda state: held_out_loss(config.stylizer, state, pictures),
        config.bounds,
        config.rounds.tolerance,
    )


def serve(path: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    config = load(path, CloudConfig)
    logs.start(config.name, config.log_level)
    asyncio.run(_serve(config))


async def _serve(config: CloudConfig) -> None:
    key = issuer_key(config.state)
    server = CloudServer(
        config.name,
        Identity(config.certificate, config.key),
        TokenIssuer(key),
        TokenVerifier(public_bytes(key)),
        make_federation(config),
        config.state,
        lifetime_s=config.token_s,
    )
    if config.metrics:
        host, _, port = config.metrics.rpartition(':')
        server.metrics.serve(host, int(port))
    stopping = stop_signal()
    await server.start(config.address)
    rounds = config.rounds
    server.start_rounds(rounds.every_s, rounds.min_edges, rounds.timeout_s, rounds.limit or None)
    await stopping.wait()
    await server.stop()
