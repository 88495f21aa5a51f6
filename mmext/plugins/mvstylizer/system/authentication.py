"""Authorisation of calls: checked before a byte of the request is parsed.

A call carries in its metadata ``authorization: Bearer <token>``, ``x-nonce``, ``x-time`` and
``x-proof``, the device's signature over the server's name, the method, the token, the nonce and the
time. The name is the one that the server's certificate proves, so a call to one edge is of no use
to another.
"""

import logging
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import logs
from .tokens import Claims, ProofVerifier, TokenError, TokenVerifier, sign_call

#: Who calls, within a handler.
caller: ContextVar[Claims] = ContextVar('caller')

#: Calls that need no token: enrolment has its own one-time code, health tells nothing.
OPEN_METHODS = ('/mmext.mvstylizer.v1.Cloud/Enroll', '/grpc.health.v1.Health/')


#: Initial metadata of a stream that is let in.
ADMITTED = ('x-admitted', '1')


class Authenticator(grpc.aio.ServerInterceptor):
    """Refuses calls without a good token and proof.

    Args:
        name (str): Name of this server, as in its certificate.
        tokens (TokenVerifier): Of the cloud's public key.
        proofs (ProofVerifier): Remembers calls.
        roles (tuple[str, ...]): Who may call at all.
        refused (Callable): Told the reason of each refusal (for metrics).
    """

    def __init__(
        self,
        name: str,
        tokens: TokenVerifier,
        proofs: ProofVerifier,
        roles: tuple[str, ...],
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._name = name
        self._tokens = tokens
        self._proofs = proofs
        self._roles = roles
        self._refused = refused

    async def intercept_service(self, continuation, handler_call_details):
        """Go on, or answer UNAUTHENTICATED (PERMISSION_DENIED for another role)."""
        method = handler_call_details.method
        if method.startswith(OPEN_METHODS):
            return await continuation(handler_call_details)
        metadata = dict(handler_call_details.invocation_metadata or ())
        try:
            claims = self._check(method, metadata)
        except TokenError as error:
            return self._refusal(method, grpc.StatusCode.UNAUTHENTICATED, str(error))
        if claims.role not in self._roles:
            return self._refusal(method, grpc.StatusCode.PERMISSION_DENIED, 'wrong role')
        caller.set(claims)
        return await continuation(handler_call_details)

    def _check(self, method: str, metadata: dict) -> Claims:
        scheme, _, token = str(metadata.get('authorization', '')).partition(' ')
        if scheme != 'Bearer' or not token:
            raise TokenError('no token')
        claims = self._tokens.verify(token)
        parts = [str(metadata.get(key, '')) for key in ('x-nonce', 'x-time', 'x-proof')]
        self._proofs.verify(claims, _audience(self._name, method), token, *parts)
        return claims

    def _refusal(self, method: str, code: grpc.StatusCode, reason: str):
        self._refused(reason)
        logs.event('call refused', logging.WARNING, reason=reason, name=method)

        async def refuse(_, context):
            await context.abort(code, reason)

        # No deserializer: the request stays bytes that nobody looks at.
        return grpc.stream_stream_rpc_method_handler(refuse)


class CallSigner:
    """Metadata of calls of one device to one server.

    Args:
        server (str): Name of the server, as in its certificate.
        token (Callable): The token to use now.
        key (Ed25519PrivateKey): The device's.
    """

    def __init__(self, server: str, token: Callable[[], str], key: Ed25519PrivateKey) -> None:
        self._server = server
        self._token = token
        self._key = key

    def metadata(self, method: str) -> tuple[tuple[str, str], ...]:
        """Fresh metadata for one call of ``method`` (its full path)."""
        token, nonce, at = self._token(), secrets.token_urlsafe(16), time.time()
        proof = sign_call(self._key, _audience(self._server, method), token, nonce, at)
        return (
            ('authorization', f'Bearer {token}'),
            ('x-nonce', nonce),
            ('x-time', repr(at)),
            ('x-proof', proof),
        )


async def admitted(call) -> None:
    """Wait until the server has let a streaming call in; nothing should be sent before.

    Raises:
        grpc.aio.AioRpcError: What the server said instead.
    """
    if ADMITTED not in tuple(await call.initial_metadata()):
        await call.code()
        await call.read()


def _audience(server: str, method: str) -> str:
    return f'{server}{method}'


def secure_channel(
    address: str, server: str, ca: bytes, max_message_bytes: int = 8 << 20
) -> grpc.aio.Channel:
    """Channel over TLS to a server that must prove its name.

    Args:
        address (str): ``host:port``.
        server (str): Name in the server's certificate.
        ca (bytes): PEM of the authority that vouches for it.
        max_message_bytes (int): Largest answer taken. Default 8 MiB.
    """
    return grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(root_certificates=ca),
        options=(
            ('grpc.ssl_target_name_override', server),
            ('grpc.max_receive_message_length', max_message_bytes),
            ('grpc.keepalive_time_ms', 20_000),
            ('grpc.keepalive_timeout_ms', 5_000),
            ('grpc.enable_http_proxy', 0),
            # Every link has a connection of its own and takes over its retries.
            ('grpc.use_local_subchannel_pool', 1),
            ('grpc.enable_retries', 0),
            # Also the time that one attempt to connect gets.
            ('grpc.min_reconnect_backoff_ms', 10_000),
        ),
    )
