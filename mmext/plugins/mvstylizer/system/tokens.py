"""Device tokens: signed, expiring, revocable, and of no use without the device's own key.

The cloud signs tokens by Ed25519; edges hold only its public key, so a captured edge cannot make
tokens. A token names the public key of its device, and each call carries a fresh nonce signed by
that key, so neither a leaked token nor a recorded call opens another stream.
"""

import base64
import binascii
import contextlib
import fcntl
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from .certificates import write_private

ROLES = ('phone', 'edge')
MAX_TOKEN_CHARS = 1024
_Clock = Callable[[], float]


class TokenError(Exception):
    """A token or a proof is refused; the text names the reason and holds no secret."""


@dataclass(frozen=True)
class Claims:
    """What a token says.

    Args:
        device (str): Name of the device.
        role (str): One of :data:`ROLES`.
        id (str): Of the enrolment, kept by renewed tokens; what a revocation names.
        expires (float): Unix time.
        key (str): Public key of the device, base64url.
    """

    device: str
    role: str
    id: str
    expires: float
    key: str


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b'=').decode('ascii')


def decode(text: str) -> bytes:
    """Undo :func:`encode`.

    Raises:
        TokenError: Not base64url.
    """
    try:
        return base64.b64decode(text + '=' * (-len(text) % 4), altchars='-_', validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenError('malformed token') from error


def peek(token: str) -> Claims:
    """What a token says, unchecked: for its owner, who wants to know when it ends.

    Raises:
        TokenError: Malformed.
    """
    try:
        return Claims(**json.loads(decode(token.partition('.')[0])))
    except (ValueError, TypeError) as error:
        raise TokenError('malformed token') from error


def save_key(key: Ed25519PrivateKey, path: Path) -> None:
    """Write a private key as PEM, readable by its owner only."""
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read what :func:`save_key` wrote.

    Raises:
        ValueError: Another kind of key.
    """
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f'{path} holds no Ed25519 key')
    return key


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public key."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


class TokenIssuer:
    """Signs tokens; lives in the cloud.

    Args:
        key (Ed25519PrivateKey): The cloud's.
        clock (Callable): Unix time.
    """

    def __init__(self, key: Ed25519PrivateKey, clock: _Clock = time.time) -> None:
        self._key = key
        self._clock = clock

    def issue(
        self,
        device: str,
        role: str,
        public_key: bytes,
        lifetime_s: float,
        token_id: str | None = None,
    ) -> str:
        """Return a token.

        Args:
            device (str): Name of the device, 1 to 64 printable characters.
            role (str): One of :data:`ROLES`.
            public_key (bytes): The device's, 32 bytes.
            lifetime_s (float): Seconds until it expires, positive.
            token_id (str): Of the token that this one renews; None: a new one.

        Raises:
            ValueError: An argument is out of its range.
        """
        _check_owner(device, role)
        if len(public_key) != 32:
            raise ValueError(f'public_key has {len(public_key)} bytes, not 32')
        if lifetime_s <= 0:
            raise ValueError(f'lifetime_s={lifetime_s} must be positive')
        claims = Claims(
            device=device,
            role=role,
            id=token_id or secrets.token_hex(8),
            expires=self._clock() + lifetime_s,
            key=encode(public_key),
        )
        payload = json.dumps(asdict(claims), separators=(',', ':')).encode()
        return f'{encode(payload)}.{encode(self._key.sign(payload))}'


class TokenVerifier:
    """Checks tokens; lives in edges and cloud.

    Args:
        public_key (bytes): The cloud's, 32 bytes.
        clock (Callable): Unix time.
    """

    def __init__(self, public_key: bytes, clock: _Clock = time.time) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(public_key)
        self._clock = clock
        self._revoked: frozenset[str] = frozenset()

    def revoke(self, ids: Iterable[str]) -> None:
        """Replace the set of revoked token ids."""
        self._revoked = frozenset(ids)

    def check(self, claims: Claims) -> None:
        """Check again, now, what a verified token says.

        Raises:
            TokenError: Expired or revoked.
        """
        if self._clock() >= claims.expires:
            raise TokenError('expired token')
        if claims.id in self._revoked:
            raise TokenError('revoked token')

    def verify(self, token: str) -> Claims:
        """Return what the token says.

        Raises:
            TokenError: Malformed, signed by another key, expired or revoked.
        """
        if len(token) > MAX_TOKEN_CHARS or token.count('.') != 1:
            raise TokenError('malformed token')
        payload, signature = (decode(part) for part in token.split('.'))
        try:
            self._key.verify(signature, payload)
        except InvalidSignature as error:
            raise TokenError('wrong signature') from error
        try:
            claims = Claims(**json.loads(payload))
        except (ValueError, TypeError) as error:
            raise TokenError('malformed token') from error
        self.check(claims)
        return claims


def sign_call(key: Ed25519PrivateKey, audience: str, token: str, nonce: str, at: float) -> str:
    """Proof that the caller has the key of the token, for one call only."""
    return encode(key.sign(_call(audience, token, nonce, at)))


class ProofVerifier:
    """Checks the proof of each call and refuses those that were seen.

    Args:
        window_s (float): How far the clocks of device and server may differ, seconds. A nonce is
            remembered for twice as long. Default 60.
        capacity (int): Nonces remembered at most; when full, new calls are refused rather than old
            nonces forgotten. Default 100 000 (about 20 MB).
        clock (Callable): Unix time.
    """

    def __init__(
        self, window_s: float = 60, capacity: int = 100_000, clock: _Clock = time.time
    ) -> None:
        if window_s <= 0 or capacity < 1:
            raise ValueError(f'window_s={window_s} and capacity={capacity} must be positive')
        self._window = window_s
        self._capacity = capacity
        self._clock = clock
        self._seen: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def verify(self, claims: Claims, audience: str, token: str, nonce: str, at: str, proof: str):
        """Accept a call once.

        Raises:
            TokenError: Wrong signature, clock too far off, or the call was seen.
        """
        try:
            moment = float(at)
        except ValueError as error:
            raise TokenError('malformed proof') from error
        now = self._clock()
        # Written so that NaN is refused, too.
        if not abs(now - moment) <= self._window:
            raise TokenError('proof is too old or from the future')
        if not 16 <= len(nonce) <= 64:
            raise TokenError('malformed proof')
        try:
            key = Ed25519PublicKey.from_public_bytes(decode(claims.key))
            key.verify(decode(proof), _call(audience, token, nonce, moment))
        except (InvalidSignature, ValueError) as error:
            raise TokenError('wrong proof') from error
        with self._lock:
            if len(self._seen) >= self._capacity:
                self._seen = {k: until for k, until in self._seen.items() if until > now}
                if len(self._seen) >= self._capacity:
                    raise TokenError('too many calls')
            if self._seen.get((claims.id, nonce), 0) > now:
                raise TokenError('replayed call')
            self._seen[claims.id, nonce] = now + 2 * self._window


def _call(audience: str, token: str, nonce: str, at: float) -> bytes:
    return json.dumps([audience, token, nonce, at]).encode()


class EnrolmentCodes:
    """One-time codes that an operator hands to the owner of a device.

    Only hashes are stored, one JSON file for all; a used or expired code is gone.

    Args:
        path (Path): The file.
        clock (Callable): Unix time.
    """

    def __init__(self, path: Path, clock: _Clock = time.time) -> None:
        self._path = path
        self._clock = clock
        self._threads = threading.Lock()

    def create(self, device: str, role: str, lifetime_s: float = 3600) -> str:
        """Return a new code of 128 random bits for a device.

        Raises:
            ValueError: ``device`` or ``role`` is out of its range.
        """
        _check_owner(device, role)
        code = secrets.token_urlsafe(16)
        with self._locked():
            entries = self._read()
            entries.append(
                {'hash': _hash(code), 'device': device, 'role': role,
                 'expires': self._clock() + lifetime_s}
            )  # fmt: skip
            self._write(entries)
        return code

    def redeem(self, code: str) -> tuple[str, str]:
        """Return (device, role) of a code and forget it.

        Raises:
            TokenError: Unknown, used or expired code.
        """
        found = None
        with self._locked():
            entries = self._read()
            for entry in entries:
                if hmac.compare_digest(entry['hash'], _hash(code)):
                    found = entry
            if found is None:
                raise TokenError('unknown or used enrolment code')
            entries.remove(found)
            self._write(entries)
        if self._clock() >= found['expires']:
            raise TokenError('expired enrolment code')
        return found['device'], found['role']

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The operator's command and the running cloud are two processes.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._threads, open(self._path.with_suffix('.lock'), 'w') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self) -> list[dict]:
        return json.loads(self._path.read_text()) if self._path.exists() else []

    def _write(self, entries: list[dict]) -> None:
        draft = self._path.with_suffix('.tmp')
        write_private(draft, json.dumps(entries).encode())
        draft.replace(self._path)


def _check_owner(device: str, role: str) -> None:
    if role not in ROLES:
        raise ValueError(f'role={role!r} must be one of {ROLES}')
    if not 0 < len(device) <= 64 or not device.isprintable():
        raise ValueError(f'device={device!r} must have 1 to 64 printable characters')


def _hash(code: str) -> str:
    # The code has 128 random bits: no salt or slow hash is needed.
    return hashlib.sha256(code.encode()).hexdigest()
