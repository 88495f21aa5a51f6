"""The cloud: enrols devices, publishes models, runs federated rounds."""

import asyncio
import logging
import threading
from pathlib import Path

import grpc

from . import chunks, logs
from . import mvstylizer_pb2 as pb
from . import mvstylizer_pb2_grpc as rpc
from .authentication import Authenticator, caller
from .certificates import Identity
from .federation import Federation
from .flower_grid import MailGrid, pack, unpack
from .flower_strategy import ArrayRecord, GatedFedAvg
from .metrics import CloudMetrics
from .models import ModelStore
from .revocations import Revocations
from .serving import add_health, server_credentials, server_options
from .tokens import (
    EnrolmentCodes,
    ProofVerifier,
    TokenError,
    TokenIssuer,
    TokenVerifier,
    decode,
    peek,
)

SERVICE = 'mmext.mvstylizer.v1.Cloud'


class CloudService(rpc.CloudServicer):
    """Calls of devices.

    Args:
        issuer (TokenIssuer): Signs tokens.
        codes (EnrolmentCodes): One-time codes.
        tokens (TokenVerifier): Of the issuer's public key.
        revocations (Revocations): Revoked tokens.
        models (ModelStore): Published versions.
        grid (MailGrid): Messages of rounds.
        metrics (CloudMetrics): Counts.
        lifetime_s (float): Of tokens, seconds.
        poll_s (float): How long an edge waits for work in one call.
    """

    def __init__(
        self,
        issuer: TokenIssuer,
        codes: EnrolmentCodes,
        tokens: TokenVerifier,
        revocations: Revocations,
        models: ModelStore,
        grid: MailGrid,
        metrics: CloudMetrics,
        lifetime_s: float,
        poll_s: float,
    ) -> None:
        self._issuer = issuer
        self._codes = codes
        self._tokens = tokens
        self._revocations = revocations
        self._models = models
        self._grid = grid
        self._metrics = metrics
        self._lifetime_s = lifetime_s
        self._poll_s = poll_s

    async def Enroll(self, request, context):
        """Trade a one-time code for a token."""
        if len(request.public_key) != 32:
            # Before the code is redeemed: the device can come again with it.
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, 'public_key must be Ed25519')
        try:
            device, role = self._codes.redeem(request.code)
            token = self._issuer.issue(device, role, request.public_key, self._lifetime_s)
        except TokenError as error:
            # A guess costs a second.
            await asyncio.sleep(1)
            logs.event('enrolment refused', logging.WARNING, reason=str(error))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        self._metrics.enrolled.labels(role).inc()
        logs.event('enrolled', device=device, role=role, token_id=peek(token).id)
        return pb.EnrollReply(token=token)

    async def Renew(self, request, context):
        """A new token for the device and key of the old one, with its id."""
        claims = caller.get()
        try:
            # The operator's command may have added some.
            self._tokens.revoke(self._revocations.ids())
            self._tokens.check(claims)
        except TokenError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        # The id stays, so a revocation of the enrolment reaches all tokens that came of it.
        token = self._issuer.issue(
            claims.device, claims.role, decode(claims.key), self._lifetime_s, claims.id
        )
        return pb.EnrollReply(token=token)

    async def GetState(self, request, context):
        """Current model and revoked tokens."""
        revoked = self._revocations.ids()
        # The operator's command may have added some.
        self._tokens.revoke(revoked)
        return pb.StateReply(model_version=self._models.current, revoked=revoked)

    async def GetModel(self, request, context):
        """File of a version."""
        await self._only_edges(context)
        try:
            data, _ = self._models.data(request.version)
        except FileNotFoundError:
            await context.abort(grpc.StatusCode.NOT_FOUND, f'no version {request.version}')
        for chunk in chunks.split(data):
            yield chunk

    async def GetWork(self, request, context):
        """An edge's next message, if one comes soon."""
        await self._only_edges(context)
        message = await self._grid.wait(caller.get().device, self._poll_s)
        if message is not None:
            for chunk in chunks.split(await asyncio.to_thread(pack, message)):
                yield chunk

    async def PutResult(self, request_iterator, context):
        """An edge's reply."""
        await self._only_edges(context)
        try:
            data = await chunks.join(request_iterator, chunks.LIMIT)
            reply = await asyncio.to_thread(unpack, data or b'')
        except ValueError as error:
            self._metrics.updates.labels('malformed').inc()
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.ResultReply(wanted=self._grid.deliver(caller.get().device, reply))

    async def _only_edges(self, context) -> None:
        if caller.get().role != 'edge':
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, 'wrong role')


class CloudServer:
    """A cloud on a port, and its rounds in a thread.

    Args:
        name (str): As in its certificate.
        identity (Identity): Certificate and key.
        issuer (TokenIssuer): Signs tokens.
        tokens (TokenVerifier): Of the issuer's public key.
        federation (Federation): Models and rounds.
        folder (Path): For codes and revocations.
        metrics (CloudMetrics): Counts.
        lifetime_s (float): Of tokens. Default one day.
        poll_s (float): Longest wait of an edge in one call. Default 20.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        issuer: TokenIssuer,
        tokens: TokenVerifier,
        federation: Federation,
        folder: Path,
        metrics: CloudMetrics | None = None,
        lifetime_s: float = 86400,
        poll_s: float = 20,
    ) -> None:
        self.name = name
        self.federation = federation
        self.metrics = metrics or CloudMetrics()
        self.codes = EnrolmentCodes(folder / 'enrolment.json')
        self.revocations = Revocations(folder / 'revoked.json')
        self.grid = MailGrid(present_s=3 * poll_s)
        self._identity = identity
        self._tokens = tokens
        self._service = CloudService(
            issuer, self.codes, tokens, self.revocations, federation.models, self.grid,
            self.metrics, lifetime_s, poll_s,
        )  # fmt: skip
        self._stopping = threading.Event()
        self._rounds: threading.Thread | None = None
        self._counted = len(federation.rounds())

    async def start(self, address: str) -> int:
        """Listen at ``host:port`` and return the port."""
        self._tokens.revoke(self.revocations.ids())
        self._server = grpc.aio.server(
            interceptors=[
                Authenticator(
                    self.name,
                    self._tokens,
                    ProofVerifier(),
                    ('phone', 'edge'),
                    lambda reason: self.metrics.calls_refused.labels(reason).inc(),
                )
            ],
            options=server_options(2 << 20),
            maximum_concurrent_rpcs=1000,
        )
        rpc.add_CloudServicer_to_server(self._service, self._server)
        self._health = await add_health(self._server, SERVICE)
        port = self._server.add_secure_port(address, server_credentials(self._identity))
        await self._server.start()
        self.metrics.model.set(self.federation.models.current)
        logs.event('serving', name=self.name, address=address)
        return port

    def revoke(self, token_id: str) -> None:
        """Refuse a token from now on, here and, with their next question, at the edges."""
        self.revocations.add(token_id)
        self._tokens.revoke(self.revocations.ids())

    def run_round(self, min_edges: int, wait_s: float, timeout_s: float) -> None:
        """Run one round by Flower's strategy; blocks.

        Args:
            min_edges (int): Edges that it waits for.
            wait_s (float): At most so long.
            timeout_s (float): For their answers.
        """
        strategy = GatedFedAvg(self.federation, min_edges, wait_s)
        arrays = ArrayRecord(dict(self.federation.state()))
        strategy.start(self.grid, arrays, num_rounds=1, timeout=timeout_s)
        for done in self.federation.rounds()[self._counted :]:
            self._counted += 1
            self.metrics.rounds.labels(done.outcome).inc()
            self.metrics.updates.labels('taken').inc(len(done.taken))
            for reason in done.refused.values():
                self.metrics.updates.labels(reason).inc()
            self.metrics.held_out.set(
                done.after if done.outcome == 'published' and done.after else done.before
            )
        self.metrics.model.set(self.federation.models.current)

    def start_rounds(
        self, every_s: float, min_edges: int, timeout_s: float, limit: int | None = None
    ) -> None:
        """Run rounds in a thread.

        Args:
            every_s (float): Pause between rounds.
            min_edges (int): Edges that a round waits for.
            timeout_s (float): For their answers.
            limit (int): Rounds in the life of the cloud; None: no limit.
        """

        def run() -> None:
            while not self._stopping.is_set():
                if limit is not None and len(self.federation.rounds()) >= limit:
                    return
                try:
                    # Without edges there is nothing to count as a round.
                    if len(list(self.grid.get_node_ids())) >= min_edges:
                        self.run_round(min_edges, 0, timeout_s)
                    else:
                        self._stopping.wait(0.5)
                        continue
                except Exception:  # a failed round must not end the cloud; the log has the trace
                    logs.event('round failed', logging.ERROR, exc_info=True)
                self._stopping.wait(every_s)

        self._rounds = threading.Thread(target=run, name='rounds', daemon=True)
        self._rounds.start()

    async def stop(self, grace_s: float = 5) -> None:
        """Take no more calls; a running round is given up and begun again at the next start."""
        self._stopping.set()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        logs.event('stopped', name=self.name)
