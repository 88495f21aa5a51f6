"""An edge's connection to the cloud: models, revocations, work; the edge serves on without it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import grpc
from flwr.app import Message
from flwr.clientapp import ClientApp

from . import background, chunks, logs
from . import mvstylizer_pb2 as pb
from . import mvstylizer_pb2_grpc as rpc
from .authentication import CallSigner, secure_channel
from .collection import Collection
from .device import RENEW_METHOD, RENEW_S
from .flower_edge import run_app
from .flower_grid import node_of, pack, unpack
from .link import Credentials, Target
from .metrics import EdgeMetrics
from .models import ModelStore
from .revocations import Revocations
from .tokens import TokenVerifier, peek

_PREFIX = '/mmext.mvstylizer.v1.Cloud/'


class CloudLink:
    """Keeps an edge up to date and takes part in rounds.

    Args:
        target (Target): The cloud.
        credentials (Credentials): Of this edge.
        edge (str): Name of this edge, as in its token.
        models (ModelStore): Gets published versions.
        tokens (TokenVerifier): Gets revocations.
        app (ClientApp): Trains; None: this edge takes part in no rounds.
        metrics (EdgeMetrics): Counts.
        collection (Collection): Frames that expire.
        every_s (float): Pause between questions. Default 10.
        renew_s (float): A token that ends so soon is renewed. Default :data:`.RENEW_S`, 6 h.
        on_token (Callable): Told a renewed token.
        revocations (Revocations): Keeps what the cloud revoked, for a start without it.
    """

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        edge: str,
        models: ModelStore,
        tokens: TokenVerifier,
        app: ClientApp | None,
        metrics: EdgeMetrics,
        collection: Collection | None = None,
        every_s: float = 10,
        renew_s: float = RENEW_S,
        on_token: Callable[[str], None] | None = None,
        revocations: Revocations | None = None,
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._token = credentials.token
        self._edge = edge
        self._models = models
        self._tokens = tokens
        self._app = app
        self._metrics = metrics
        self._collection = collection
        self._every_s = every_s
        self._renew_s = renew_s
        self._on_token = on_token
        self._revocations = revocations
        self._asked = asyncio.Event()
        self._signer = CallSigner(target.name, lambda: self._token, credentials.key)
        self._tasks: list[asyncio.Task] = []
        #: Version that the cloud published last, as far as known.
        self.published = models.current

    async def start(self) -> None:
        """Begin to ask; failures are counted and tried again."""
        self._channel = secure_channel(
            self._target.address, self._target.name, self._credentials.ca, chunks.LIMIT
        )
        self._stub = rpc.CloudStub(self._channel)
        loops = [self._forever(self.refresh, self._every_s)]
        if self._app is not None:
            loops.append(self._forever(self.work, 0.2))
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def asked(self, seconds: float) -> None:
        """Wait until the cloud was asked once, with or without an answer; at most so long."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._asked.wait(), seconds)

    async def stop(self) -> None:
        """End; work that is under way is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def refresh(self) -> None:
        """Ask for revocations and the current model; fetch the model if it is new."""
        if self._collection is not None:
            await asyncio.to_thread(self._collection.expire)
            self._metrics.collected.set(len(self._collection.paths()))
        state = await self._stub.GetState(
            pb.StateRequest(), metadata=self._signer.metadata(f'{_PREFIX}GetState'), timeout=20
        )
        self._tokens.revoke(state.revoked)
        if self._revocations is not None:
            self._revocations.replace(state.revoked)
        if peek(self._token).expires - time.time() < self._renew_s:
            await self.renew()
        version = state.model_version
        if version != self._models.current:
            if not self._models.has(version):
                await self._fetch(version)
            # New sessions and scenes take it from here on.
            self._models.select(version)
            logs.event('model current', model_version=version)
        self.published = version
        self._metrics.model.set(version)

    async def renew(self) -> None:
        """Get a new token for the same key."""
        reply = await self._stub.Renew(
            pb.RenewRequest(), metadata=self._signer.metadata(RENEW_METHOD), timeout=20
        )
        self._token = reply.token
        if self._on_token is not None:
            self._on_token(reply.token)

    async def work(self) -> None:
        """Fetch a message of a round, answer it."""
        call = self._stub.GetWork(
            pb.WorkRequest(), metadata=self._signer.metadata(f'{_PREFIX}GetWork'), timeout=120
        )
        data = await chunks.join(call, chunks.LIMIT)
        if data is None:
            return
        message = unpack(data)
        reply = await background.in_daemon(self._answer, message)
        answer = await self._stub.PutResult(
            chunks.split(reply), metadata=self._signer.metadata(f'{_PREFIX}PutResult'), timeout=120
        )
        if not answer.wanted:
            logs.event('result not wanted', logging.WARNING, edge=self._edge)

    def _answer(self, message: Message) -> bytes:
        assert self._app is not None  # for type checkers
        return pack(run_app(self._app, message, node_of(self._edge)))

    async def _fetch(self, version: int) -> None:
        call = self._stub.GetModel(
            pb.ModelRequest(version=version),
            metadata=self._signer.metadata(f'{_PREFIX}GetModel'),
            timeout=300,
        )
        data = await chunks.join(call, chunks.LIMIT)
        await asyncio.to_thread(self._models.add, version, data or b'')
        logs.event('model fetched', model_version=version, bytes=len(data or b''))

    async def _forever(self, step: Callable, pause_s: float) -> None:
        failures = 0
        while True:
            try:
                await step()
                failures = 0
            except grpc.aio.AioRpcError as error:
                failures += 1
                self._metrics.cloud_failures.inc()
                logs.event('cloud away', logging.WARNING, reason=error.code().name.lower())
            except ValueError as error:
                failures += 1
                self._metrics.cloud_failures.inc()
                logs.event('cloud answered nonsense', logging.ERROR, reason=str(error))
            except Exception:  # a full disk must not part the edge from its cloud for good
                failures += 1
                self._metrics.cloud_failures.inc()
                logs.event('cloud link failed', logging.ERROR, exc_info=True)
            self._asked.set()
            await asyncio.sleep(pause_s if not failures else min(30.0, 0.2 * 2**failures))
