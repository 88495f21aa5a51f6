"""A device's key and token on disk."""

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import background, logs
from . import mvstylizer_pb2 as pb
from . import mvstylizer_pb2_grpc as rpc
from .authentication import CallSigner, secure_channel
from .certificates import write_private
from .link import Credentials, EdgeLink, Target
from .tokens import load_key, peek, public_bytes, save_key

RENEW_METHOD = '/mmext.mvstylizer.v1.Cloud/Renew'
#: A token that ends so soon is renewed, seconds.
RENEW_S = 6 * 3600


def credentials(folder: Path, ca: Path) -> Credentials:
    """Key and token of an enrolled device.

    Args:
        folder (Path): Has ``device.key`` and ``token``.
        ca (Path): PEM of the authority of all servers.

    Raises:
        FileNotFoundError: The device is not enrolled, or ``ca`` does not exist.
        ValueError: Its token has expired.
    """
    token_file = folder / 'token'
    if not token_file.exists():
        raise FileNotFoundError(
            f'{token_file} does not exist: enrol this device with --enroll CODE; the cloud makes '
            'codes by its command enroll'
        )
    token = token_file.read_text().strip()
    if peek(token).expires <= time.time():
        raise ValueError(f'the token in {token_file} has expired: enrol this device again')
    return Credentials(ca.read_bytes(), token, load_key(folder / 'device.key'))


def join(folder: Path, ca: Path, cloud: Target, code: str) -> None:
    """Enrol a device: make its key if there is none, trade a code for a token, keep both.

    Raises:
        grpc.aio.AioRpcError: The cloud refused the code or is away.
    """
    key_file = folder / 'device.key'
    if not key_file.exists():
        save_key(Ed25519PrivateKey.generate(), key_file)
    key = load_key(key_file)
    token = background.run(enroll(cloud, ca.read_bytes(), code, public_bytes(key)), 60)
    save_token(folder, token)


async def enroll(target: Target, ca: bytes, code: str, public_key: bytes) -> str:
    """Trade a one-time code for a token.

    Raises:
        grpc.aio.AioRpcError: The cloud refused it or is away.
    """
    async with secure_channel(target.address, target.name, ca) as channel:
        request = pb.EnrollRequest(code=code, public_key=public_key)
        return (await rpc.CloudStub(channel).Enroll(request, timeout=30)).token


async def renew(target: Target, credentials: Credentials) -> Credentials:
    """Get a new token for the same device and key.

    Raises:
        grpc.aio.AioRpcError: The cloud refused it or is away.
    """
    signer = CallSigner(target.name, lambda: credentials.token, credentials.key)
    async with secure_channel(target.address, target.name, credentials.ca) as channel:
        reply = await rpc.CloudStub(channel).Renew(
            pb.RenewRequest(), metadata=signer.metadata(RENEW_METHOD), timeout=20
        )
    return replace(credentials, token=reply.token)


async def keep_token(target: Target, link: EdgeLink, folder: Path) -> None:
    """Renew the token of a link before it ends, for as long as this is not cancelled."""
    while True:
        left = peek(link.credentials.token).expires - time.time()
        if left < RENEW_S:
            try:
                link.credentials = await renew(target, link.credentials)
                save_token(folder, link.credentials.token)
                left = peek(link.credentials.token).expires - time.time()
            except (grpc.aio.AioRpcError, OSError) as error:
                # The old one may be good for a while.
                logs.event('token not renewed', logging.WARNING, error=type(error).__name__)
        await asyncio.sleep(min(600.0, max(1.0, left / 2)))


def save_token(folder: Path, token: str) -> None:
    """Keep a token, readable by its owner only."""
    draft = folder / 'token.tmp'
    write_private(draft, token.encode())
    draft.replace(folder / 'token')
