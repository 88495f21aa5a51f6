"""The phone's connection to its edges: reconnects, fails over, sends unanswered keys again."""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import background, logs
from . import mvstylizer_pb2 as pb
from . import mvstylizer_pb2_grpc as rpc
from .authentication import CallSigner, admitted, secure_channel
from .images import ImageError, ImageLimits, decode

METHOD = '/mmext.mvstylizer.v1.Edge/Stylize'


@dataclass(frozen=True)
class Target:
    """An edge.

    Args:
        name (str): As in its certificate.
        address (str): ``host:port``.
    """

    name: str
    address: str


@dataclass(frozen=True)
class Credentials:
    """What a phone shows and trusts.

    Args:
        ca (bytes): PEM of the authority of the edges' certificates.
        token (str): Of this device.
        key (Ed25519PrivateKey): Of this device.
    """

    ca: bytes
    token: str = field(repr=False)
    key: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True)
class LinkOptions:
    """How a link behaves; all ours.

    Args:
        outbox (int): Keys that wait to be sent; above it the oldest that starts no scene is given
            up. Default 8.
        stall_s (float): A key unanswered for so long ends the connection. Default 5.
        connect_s (float): Until the edge has opened the session. Default 5.
        backoff_s (float): Pause after a failure; doubles up to ``backoff_max_s``, with jitter.
        backoff_max_s (float): Longest pause.
    """

    outbox: int = 8
    stall_s: float = 5
    connect_s: float = 5
    backoff_s: float = 0.1
    backoff_max_s: float = 3


@dataclass
class Key:
    """A key on its way.

    Args:
        sequence (int): Of the frame; rises.
        image (bytes): Encoded.
        scene_start (bool): First key after a cut.
        expires (float): Monotonic seconds after which nobody needs the answer.
        sent (float): When it was last sent.
    """

    sequence: int
    image: bytes
    scene_start: bool
    expires: float
    sent: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What became of a key.

    Args:
        sequence (int): Of the key.
        frame (np.ndarray or None): Stylised; None: it will not come.
        version (int): Model that made it.
        reason (str): Why it will not come.
        round_trip (float): Seconds from sending to receipt.
        uploaded (int): Bytes sent.
    """

    sequence: int
    frame: np.ndarray | None
    version: int = 0
    reason: str = ''
    round_trip: float = 0.0
    uploaded: int = 0


class EdgeLink:
    """Sends keys to one of several edges and hands on the answers; never blocks its user.

    Each key is answered once by ``on_reply``, called in the link's thread: with a frame, or with
    the reason why there is none. After a broken connection unanswered keys that still have time go
    to the next edge.

    Args:
        targets (Sequence[Target]): Edges, best first.
        credentials (Credentials): Of this phone.
        style (bytes): Style picture, encoded.
        on_reply (Callable): Takes a :class:`Reply`.
        consent (bool): Edges may keep this phone's frames. Default False.
        options (LinkOptions): Times and sizes.
        limits (ImageLimits): Of answers.

    Raises:
        ValueError: ``targets`` is empty.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        credentials: Credentials,
        style: bytes,
        on_reply: Callable[[Reply], None],
        consent: bool = False,
        options: LinkOptions | None = None,
        limits: ImageLimits | None = None,
    ) -> None:
        if not targets:
            raise ValueError('targets is empty: a phone needs the address of an edge')
        self._targets = list(targets)
        #: Shown at the next connection; a renewed token may take the place of the old one.
        self.credentials = credentials
        self._style = style
        self._on_reply = on_reply
        self._consent = consent
        self._options = options or LinkOptions()
        self._limits = limits or ImageLimits()
        self._outbox: deque[Key] = deque()
        self._flying: dict[int, Key] = {}
        self._version: int | None = None
        self._draining = False
        self._hold = 0.0
        self._task: asyncio.Task | None = None
        #: Events: sessions, connection failures, resent keys, refusals by reason ...
        self.counts: Counter[str] = Counter()
        self.round_trips: list[float] = []
        self.up = self.down = 0
        self.session = ''
        self._loop = background.loop()
        self._wake = asyncio.Event()

    def __enter__(self) -> 'EdgeLink':
        self._future = asyncio.run_coroutine_threadsafe(self._run(), self._loop)
        return self

    def __exit__(self, *_) -> None:
        self._future.cancel()
        background.run(self._closed())

    def offer(self, key: Key) -> None:
        """Queue a key; thread-safe."""
        self._loop.call_soon_threadsafe(self._put, key)

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        await self._connect_forever()

    async def _closed(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})
        for key in (*self._flying.values(), *self._outbox):
            self._give_up(key, 'closed')
        self._flying.clear()
        self._outbox.clear()

    def _put(self, key: Key) -> None:
        if len(self._outbox) >= self._options.outbox:
            # The first key of a scene is worth more than any other.
            spare = (waiting for waiting in self._outbox if not waiting.scene_start)
            victim = next(spare, self._outbox[0])
            self._outbox.remove(victim)
            self._give_up(victim, 'outbox full')
        self._outbox.append(key)
        self._wake.set()

    def _give_up(self, key: Key, reason: str) -> None:
        self.counts[reason] += 1
        self._on_reply(Reply(key.sequence, None, reason=reason))

    def _expire(self) -> None:
        now = time.monotonic()
        for key in [key for key in self._outbox if key.expires <= now]:
            self._outbox.remove(key)
            self._give_up(key, 'expired')

    async def _connect_forever(self) -> None:
        failures = 0
        index = 0
        while True:
            target = self._targets[index % len(self._targets)]
            reason, broken = '', False
            try:
                await self._converse(target)
            except grpc.aio.AioRpcError as error:
                reason = error.code().name.lower()
            except (asyncio.TimeoutError, ConnectionError) as error:
                reason = str(error) or 'timeout'
            except Exception:  # a phone without a link is worse; the log has the trace
                reason, broken = 'failed', True
                logs.event('link failed', logging.ERROR, exc_info=True, edge=target.name)
            opened, self.session = bool(self.session), ''
            self._take_back()
            self.counts[f'connection: {reason or "drained"}'] += 1
            logs.event('connection ended', logging.WARNING, edge=target.name, reason=reason)
            # What failed for no reason of the network would fail again at once.
            failures = 0 if opened and not broken else failures + 1
            index += 1
            # The next edge is tried at once; only when all have failed is there a pause.
            if failures and failures % len(self._targets) == 0:
                doubled = self._options.backoff_s * 2 ** (failures // len(self._targets) - 1)
                pause = min(self._options.backoff_max_s, doubled) * random.uniform(0.5, 1)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._tick_expiry(), pause)

    async def _tick_expiry(self) -> None:
        while True:
            self._expire()
            await asyncio.sleep(0.05)

    def _take_back(self) -> None:
        """Put unanswered keys in front of those that were not sent yet."""
        back = sorted(self._flying.values(), key=lambda key: key.sequence)
        self._flying.clear()
        self.counts['sent again'] += len(back)
        self._outbox.extendleft(reversed(back))
        self._expire()

    async def _converse(self, target: Target) -> None:
        """One session, until it breaks or the edge drains."""
        signer = CallSigner(target.name, lambda: self.credentials.token, self.credentials.key)
        self._draining = False
        async with secure_channel(target.address, target.name, self.credentials.ca) as channel:
            call = rpc.EdgeStub(channel).Stylize(metadata=signer.metadata(METHOD))
            expiry = asyncio.create_task(self._tick_expiry())
            try:
                await asyncio.wait_for(self._open(call), self._options.connect_s)
                logs.event('session opened', edge=target.name, session=self.session)
                tasks = {
                    asyncio.create_task(self._send(call)),
                    asyncio.create_task(self._receive(call)),
                    asyncio.create_task(self._watch()),
                }
                try:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                expiry.cancel()
                call.cancel()

    async def _open(self, call) -> None:
        await admitted(call)
        # After a broken connection the scene goes on with the model it began with.
        new_scene = bool(self._outbox) and self._outbox[0].scene_start
        opening = pb.Open(style=self._style, consent=self._consent)
        if self._version is not None and not new_scene:
            opening.model_version = self._version
        await _write(call, pb.PhoneMessage(open=opening))
        message = await call.read()
        if message is grpc.aio.EOF:
            # Raises what the edge said.
            raise ConnectionError(f'closed: {(await call.code()).name.lower()}')
        if message.WhichOneof('message') != 'opened':
            raise ConnectionError('the edge did not open the session')
        self.session = message.opened.session
        self._version = message.opened.model_version
        self._window = max(1, message.opened.max_in_flight)
        self.counts['sessions'] += 1
        self._wake.set()

    async def _send(self, call) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._expire()
            while (
                self._outbox
                and not self._draining
                and len(self._flying) < self._window
                and time.monotonic() >= self._hold
            ):
                key = self._outbox.popleft()
                key.sent = time.monotonic()
                self._flying[key.sequence] = key
                left = max(1, round((key.expires - key.sent) * 1000))
                await _write(
                    call,
                    pb.PhoneMessage(
                        key=pb.KeyFrame(
                            sequence=key.sequence,
                            image=key.image,
                            scene_start=key.scene_start,
                            deadline_ms=min(left, 2**32 - 1),
                        )
                    ),
                )
                self.up += len(key.image)
                self.counts['sent'] += 1

    async def _receive(self, call) -> None:
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                raise ConnectionError(f'closed: {(await call.code()).name.lower()}')
            kind = message.WhichOneof('message')
            if kind == 'draining':
                self._draining = True
                self.counts['drained'] += 1
            elif kind in ('styled', 'refused'):
                body = getattr(message, kind)
                # An answer of another session, or to a key that nobody waits for.
                mine = body.session == self.session
                key = self._flying.pop(body.sequence, None) if mine else None
                if key is None:
                    self.counts['unmatched'] += 1
                elif kind == 'styled':
                    self._styled(key, body)
                else:
                    self._refused(key, body)
            if self._draining and not self._flying:
                return
            self._wake.set()

    def _styled(self, key: Key, styled) -> None:
        self.down += len(styled.image)
        trip = time.monotonic() - key.sent
        self.round_trips.append(trip)
        try:
            frame = decode(styled.image, self._limits)
        except ImageError:
            self._give_up(key, 'bad answer')
            return
        self._version = styled.model_version
        self.counts['styled'] += 1
        self._on_reply(Reply(key.sequence, frame, styled.model_version, '', trip, len(key.image)))

    def _refused(self, key: Key, refused) -> None:
        reason = pb.Reason.Name(refused.reason).lower()
        self.counts[f'refused: {reason}'] += 1
        if refused.retry_after_ms:
            # This key is given up, sessions take keys in order; the later ones wait.
            pause = min(refused.retry_after_ms / 1000, self._options.backoff_max_s)
            self._hold = time.monotonic() + pause
            self._loop.call_later(pause, self._wake.set)
        self._give_up(key, reason)

    async def _watch(self) -> None:
        """End a connection on which an answer is overdue."""
        while True:
            await asyncio.sleep(min(0.25, self._options.stall_s / 4))
            now = time.monotonic()
            oldest = min((key.sent for key in self._flying.values()), default=now)
            if now - oldest > self._options.stall_s:
                raise ConnectionError('stalled')


async def _write(call, message: pb.PhoneMessage) -> None:
    """Send a message; a call that is over is a lost connection.

    Raises:
        ConnectionError: The edge has ended the call.
        grpc.aio.AioRpcError: The call has failed.
    """
    try:
        await call.write(message)
    except asyncio.InvalidStateError as error:
        raise ConnectionError(f'closed: {(await call.code()).name.lower()}') from error
