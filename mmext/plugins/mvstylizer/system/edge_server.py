"""The edge: stylises the key frames of phones."""

import asyncio
import logging
import time

import grpc
from google.protobuf.message import DecodeError

from . import logs
from . import mvstylizer_pb2 as pb
from . import mvstylizer_pb2_grpc as rpc
from .authentication import ADMITTED, Authenticator, caller
from .certificates import Identity
from .collection import Collection
from .images import ImageError, ImageLimits, check
from .limits import DeviceQuota, Limits
from .metrics import EdgeMetrics
from .serving import add_health, server_credentials, server_options
from .sessions import Outcome, Session
from .stylizers import VersionedStylizers
from .tokens import Claims, ProofVerifier, TokenError, TokenVerifier
from .workers import DeadlineError, Job, Workers

SERVICE = 'mmext.mvstylizer.v1.Edge'


class EdgeService(rpc.EdgeServicer):
    """Sessions of phones.

    Args:
        stylizers (VersionedStylizers): By model version.
        limits (Limits): What a device may do.
        workers (Workers): Threads that stylise.
        metrics (EdgeMetrics): Counts.
        tokens (TokenVerifier): Asked again at each key of a running session.
        quality (int or None): JPEG quality of answers; None: PNG.
        collection (Collection): Where frames of consenting phones go; None: none are kept.
    """

    def __init__(
        self,
        stylizers: VersionedStylizers,
        limits: Limits,
        workers: Workers,
        metrics: EdgeMetrics,
        tokens: TokenVerifier,
        quality: int | None = 92,
        collection: Collection | None = None,
    ) -> None:
        self.stylizers = stylizers
        self.limits = limits
        self.workers = workers
        self.metrics = metrics
        self.tokens = tokens
        self.quality = quality
        self.collection = collection
        self.quota = DeviceQuota(limits)
        self.images = ImageLimits(limits.max_image_bytes, limits.max_side, limits.max_pixels)
        self.draining = asyncio.Event()

    async def DeleteCollected(self, request, context):
        """Delete the caller's frames."""
        deleted = 0
        if self.collection is not None:
            deleted = await asyncio.to_thread(self.collection.delete, caller.get().device)
        logs.event('frames deleted', device=caller.get().device, deleted=deleted)
        return pb.DeleteCollectedReply(deleted=deleted)

    async def Stylize(self, request_iterator, context):
        """Serve one session."""
        claims = caller.get()
        device = claims.device
        if self.draining.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, 'draining')
        if not self.quota.enter(device):
            self.metrics.refused.labels('sessions').inc()
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, 'too many sessions')
        worker = self.workers.enter()
        self.metrics.sessions.inc()
        try:
            # Tells the phone that it is let in; it sends nothing before.
            await context.send_initial_metadata((ADMITTED,))
            await Stream(self, claims, worker, request_iterator, context).run()
        finally:
            self.metrics.sessions.dec()
            self.workers.leave(worker)
            self.quota.leave(device)


class Stream:
    """One stream of a phone: reads keys, has them stylised, answers each once.

    At most ``max_in_flight`` keys are read and not answered. A phone that does not take its answers
    is not read further, and cut after ``write_timeout_s``. One whose token has expired or was
    revoked is cut at its next key.
    """

    def __init__(
        self, service: EdgeService, claims: Claims, worker: int, requests, context
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._metrics = service.metrics
        self._claims = claims
        self._device = claims.device
        self._worker = worker
        self._requests = requests.__aiter__()
        self._context = context
        self._slots = asyncio.Semaphore(service.limits.max_in_flight)
        self._answers: asyncio.Queue[pb.EdgeMessage | None] = asyncio.Queue()
        self._pending: set[asyncio.Task] = set()

    async def run(self) -> None:
        """Serve until the phone has ended its side, or drain."""
        session = await self._open()
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(session))
        draining = asyncio.create_task(self._service.draining.wait())
        try:
            await asyncio.wait({reader, writer, draining}, return_when=asyncio.FIRST_COMPLETED)
            if draining.done() and not reader.done() and not writer.done():
                self._answers.put_nowait(pb.EdgeMessage(draining=pb.Draining()))
                reader.cancel()
            if not writer.done():
                # What was read is answered, also when the phone has closed its side.
                while self._pending and not writer.done():
                    await asyncio.wait(
                        {*self._pending, writer}, return_when=asyncio.FIRST_COMPLETED
                    )
                self._answers.put_nowait(None)
            cut = await writer
            if cut is None and reader.done() and not reader.cancelled():
                cut = reader.result()
            if cut is not None:
                code, why = cut
                self._metrics.cut.labels(why).inc()
                logs.event('session cut', logging.WARNING, session=session.id, reason=why)
                await self._context.abort(code, why)
        finally:
            for task in (reader, writer, draining, *self._pending):
                task.cancel()
            await asyncio.gather(reader, writer, draining, *self._pending, return_exceptions=True)
            logs.event('session closed', session=session.id, device=self._device)

    async def _open(self) -> Session:
        context, service = self._context, self._service
        try:
            first = await asyncio.wait_for(anext(self._requests, None), self._limits.open_timeout_s)
        except asyncio.TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, 'no Open in time')
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, 'malformed message')
        if first is None or first.WhichOneof('message') != 'open':
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, 'the first message must be Open')
        assert first is not None  # for type checkers
        opening = first.open
        collection = service.collection if opening.consent else None
        session = Session(
            self._device,
            opening.style,
            opening.model_version if opening.HasField('model_version') else None,
            service.stylizers,
            service.images,
            service.quality,
            collection.add if collection is not None else None,
        )
        try:
            check(opening.style, service.images)
            job = Job(session.start)
            # The number of sessions bounds these.
            service.workers.submit(self._worker, job, always=True)
            version = await job.future
        except ImageError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f'style: {error}')
        self._metrics.decoded.inc()
        logs.event(
            'session opened', session=session.id, device=self._device, model_version=version,
            accepted=opening.consent,
        )  # fmt: skip
        await self._context.write(
            pb.EdgeMessage(
                opened=pb.Opened(
                    session=session.id,
                    model_version=version,
                    max_in_flight=self._limits.max_in_flight,
                    max_side=self._limits.max_side,
                    max_image_bytes=self._limits.max_image_bytes,
                )
            )
        )
        return session

    async def _read(self, session: Session) -> tuple[grpc.StatusCode, str] | None:
        while True:
            # Waits here, unread, while the phone leaves its answers unread.
            await self._slots.acquire()
            try:
                message = await asyncio.wait_for(
                    anext(self._requests, None), self._limits.idle_timeout_s
                )
            except asyncio.TimeoutError:
                return grpc.StatusCode.DEADLINE_EXCEEDED, 'idle'
            except DecodeError:
                return grpc.StatusCode.INVALID_ARGUMENT, 'malformed message'
            if message is None:
                return None
            if message.WhichOneof('message') != 'key':
                return grpc.StatusCode.INVALID_ARGUMENT, 'a KeyFrame was expected'
            try:
                self._service.tokens.check(self._claims)
            except TokenError as error:
                return grpc.StatusCode.UNAUTHENTICATED, str(error)
            refusal = self._accept(session, message.key)
            if refusal is not None:
                reason, retry = refusal
                self._metrics.refused.labels(pb.Reason.Name(reason).lower()).inc()
                self._refuse(session, message.key.sequence, reason, retry)

    def _accept(self, session: Session, key) -> tuple[pb.Reason, float] | None:
        """Queue a key, or return why not and when to come again."""
        service, metrics = self._service, self._metrics
        metrics.bytes.labels('up').inc(len(key.image))
        if key.sequence <= session.last_sequence:
            return pb.DUPLICATE, 0
        session.last_sequence = key.sequence
        wait = service.quota.take(self._device)
        if wait:
            return pb.QUOTA, wait
        try:
            check(key.image, service.images)
        except ImageError as error:
            return (pb.TOO_LARGE if error.too_large else pb.BAD_IMAGE), 0
        image, start = key.image, key.scene_start
        deadline = time.monotonic() + key.deadline_ms / 1000 if key.deadline_ms else None
        job = Job(lambda: session.stylize(image, start), deadline)
        if not service.workers.submit(self._worker, job):
            return pb.QUEUE_FULL, service.workers.retry_after()
        metrics.accepted.inc()
        metrics.queue.set(service.workers.waiting)
        task = asyncio.create_task(self._finish(session, key.sequence, job))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return None

    async def _finish(self, session: Session, sequence: int, job: Job) -> None:
        """Wait for an accepted key and answer it."""
        metrics = self._metrics
        try:
            outcome: Outcome = await job.future
        except DeadlineError:
            metrics.answered.labels('deadline').inc()
            self._refuse(session, sequence, pb.DEADLINE, 0)
            return
        except ImageError:
            # The header was good, the body is not.
            metrics.answered.labels('bad_image').inc()
            self._refuse(session, sequence, pb.BAD_IMAGE, 0)
            return
        except Exception:  # one bad key must not end the edge; the log has the trace
            logs.event(
                'key failed', logging.ERROR, exc_info=True, session=session.id, sequence=sequence
            )
            metrics.answered.labels('failed').inc()
            self._refuse(session, sequence, pb.FAILED, 0)
            return
        done = time.monotonic()
        metrics.decoded.inc()
        metrics.answered.labels('styled').inc()
        metrics.queue_seconds.observe(job.started - job.submitted)
        metrics.stylize_seconds.observe(done - job.started)
        metrics.bytes.labels('down').inc(len(outcome.image))
        if outcome.swapped:
            metrics.swaps.inc()
            logs.event('model swapped', session=session.id, model_version=outcome.version)
        self._answers.put_nowait(
            pb.EdgeMessage(
                styled=pb.Styled(
                    session=session.id,
                    sequence=sequence,
                    model_version=outcome.version,
                    image=outcome.image,
                    queue_ms=round((job.started - job.submitted) * 1000),
                    server_ms=round((done - job.started) * 1000),
                )
            )
        )

    def _refuse(self, session: Session, sequence: int, reason: pb.Reason, retry: float) -> None:
        self._answers.put_nowait(
            pb.EdgeMessage(
                refused=pb.Refused(
                    session=session.id,
                    sequence=sequence,
                    reason=reason,
                    retry_after_ms=round(retry * 1000),
                )
            )
        )

    async def _write(self) -> tuple[grpc.StatusCode, str] | None:
        """Send answers; return why the phone was cut, if it was."""
        while (answer := await self._answers.get()) is not None:
            try:
                await asyncio.wait_for(self._context.write(answer), self._limits.write_timeout_s)
            except asyncio.TimeoutError:
                return grpc.StatusCode.RESOURCE_EXHAUSTED, 'slow reader'
            except (grpc.aio.UsageError, grpc.aio.InternalError):
                # The phone is gone.
                return None
            if answer.WhichOneof('message') != 'draining':
                self._slots.release()
        return None


class EdgeServer:
    """An edge on a port, with TLS, tokens, health service and graceful end.

    Args:
        name (str): As in its certificate.
        identity (Identity): Certificate and key.
        tokens (TokenVerifier): Of the cloud's public key.
        stylizers (VersionedStylizers): By model version.
        limits (Limits): What a device may do.
        metrics (EdgeMetrics): Counts.
        workers (int): Threads that stylise. Default 1.
        quality (int or None): JPEG quality of answers; None: PNG.
        collection (Collection): Where frames of consenting phones go; None: none are kept.

    Example:
        >>> server = EdgeServer('edge0', identity, tokens, stylizers)
        >>> port = await server.start('127.0.0.1:0')
        >>> await server.stop()
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        tokens: TokenVerifier,
        stylizers: VersionedStylizers,
        limits: Limits | None = None,
        metrics: EdgeMetrics | None = None,
        workers: int = 1,
        quality: int | None = 92,
        collection: Collection | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.metrics = metrics or EdgeMetrics()
        self._identity = identity
        self._tokens = tokens
        self._stylizers = stylizers
        self._count = workers
        self._quality = quality
        self._collection = collection

    async def start(self, address: str) -> int:
        """Listen at ``host:port`` (port 0: any free one) and return the port.

        Raises:
            RuntimeError: The address cannot be had.
        """
        # The first model is built before the health service says SERVING.
        await asyncio.to_thread(self._stylizers.get, self._stylizers.current)
        self.metrics.model.set(self._stylizers.current)
        self._workers = Workers(self._count, self.limits.queue)
        self.service = EdgeService(
            self._stylizers, self.limits, self._workers, self.metrics, self._tokens,
            self._quality, self._collection,
        )  # fmt: skip
        self._server = grpc.aio.server(
            interceptors=[
                Authenticator(
                    self.name,
                    self._tokens,
                    ProofVerifier(),
                    ('phone',),
                    lambda reason: self.metrics.calls_refused.labels(reason).inc(),
                )
            ],
            options=server_options(self.limits.max_message_bytes),
            maximum_concurrent_rpcs=2 * self.limits.sessions,
        )
        rpc.add_EdgeServicer_to_server(self.service, self._server)
        self._health = await add_health(self._server, SERVICE)
        port = self._server.add_secure_port(address, server_credentials(self._identity))
        await self._server.start()
        logs.event('serving', name=self.name, address=address)
        return port

    async def stop(self) -> None:
        """Take nothing new, answer what was accepted, end."""
        logs.event('draining', name=self.name, count=self._workers.waiting)
        await self._health.enter_graceful_shutdown()
        self.service.draining.set()
        await self._workers.drain(self.limits.drain_s)
        await self._server.stop(self.limits.drain_s)
        await self._workers.close()
        logs.event('stopped', name=self.name)
