"""Federated rounds by Flower between a cloud and edges over TLS."""

import asyncio
import contextlib
import dataclasses
import logging
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from mvst_world import World, picture

pytest.importorskip('flwr')

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from mmext.plugins.mvstylizer.system import local_training  # noqa: E402
from mmext.plugins.mvstylizer.system import mvstylizer_pb2 as pb  # noqa: E402
from mmext.plugins.mvstylizer.system import mvstylizer_pb2_grpc as rpc  # noqa: E402
from mmext.plugins.mvstylizer.system.aggregation import (  # noqa: E402
    Bounds,  # noqa: E402
    Update,
    federated_average,
)
from mmext.plugins.mvstylizer.system.cloud_link import CloudLink  # noqa: E402
from mmext.plugins.mvstylizer.system.cloud_server import CloudServer  # noqa: E402
from mmext.plugins.mvstylizer.system.collection import Collection  # noqa: E402
from mmext.plugins.mvstylizer.system.device import enroll, renew  # noqa: E402
from mmext.plugins.mvstylizer.system.federation import Federation  # noqa: E402
from mmext.plugins.mvstylizer.system.flower_edge import make_app  # noqa: E402
from mmext.plugins.mvstylizer.system.flower_grid import (  # noqa: E402
    MailGrid,
    node_of,
    pack,
    unpack,
)
from mmext.plugins.mvstylizer.system.link import Credentials, Target  # noqa: E402
from mmext.plugins.mvstylizer.system.local_training import (  # noqa: E402
    TrainOptions,
    build_trainable,
    delta_of,
    held_out_loss,
    train,
)
from mmext.plugins.mvstylizer.system.metrics import EdgeMetrics  # noqa: E402
from mmext.plugins.mvstylizer.system.models import ModelStore  # noqa: E402
from mmext.plugins.mvstylizer.system.revocations import Revocations  # noqa: E402
from mmext.plugins.mvstylizer.system.tokens import (  # noqa: E402
    Ed25519PrivateKey,
    TokenError,
    TokenVerifier,
    encode,
    peek,
    public_bytes,
    save_key,
)

SMALL = dict(type='mmext.NeuralColorMapping', weights=None, width=4, thumbnail=32)
TRAIN = TrainOptions(iterations=2, batch_size=2, side=32, min_frames=2)


def start():
    """Weights of version 0, the same in every process."""
    torch.manual_seed(5)
    return build_trainable(SMALL).state_dict()


def frames(folder, count, seed):
    kept = Collection(folder)
    for index in range(count):
        kept.add('phone', picture(40, 48, seed + index))
    return kept


class Cloudy(World):
    """A world with a cloud."""

    def __init__(self, folder):
        super().__init__(folder)
        self.cloud = None
        self.links = []

    def up(self, evaluate=lambda state: 1.0, port=0, **options):
        models = ModelStore(self.folder / 'cloud' / 'models')
        federation = Federation(models, self.folder / 'cloud', start, evaluate, **options)
        self.cloud = CloudServer(
            'cloud', self.ca.issue('cloud', ['cloud']), self.issuer, self.tokens, federation,
            self.folder / 'cloud', poll_s=1,
        )  # fmt: skip
        self.cloud.port = self.loop.run(self.cloud.start(f'127.0.0.1:{port}'))
        return self.cloud

    def target(self):
        return Target('cloud', f'127.0.0.1:{self.cloud.port}')

    def link(self, name, app, **options):
        models = ModelStore(self.folder / name / 'models')
        link = CloudLink(
            self.target(), self.credentials(name, 'edge'), name, models,
            TokenVerifier(public_bytes(self.issuer_key)), app, EdgeMetrics(), every_s=0.1,
            **options,
        )  # fmt: skip
        link.models, link.metrics = models, link._metrics
        self.loop.run(link.start())
        self.links.append(link)
        return link

    def down(self, grace_s=0.0):
        self.loop.run(self.cloud.stop(grace_s))
        self.cloud = None

    def close(self):
        for link in self.links:
            self.loop.run(link.stop())
        if self.cloud is not None:
            self.down()
        super().close()


@pytest.fixture
def clouds(tmp_path):
    made = Cloudy(tmp_path)
    yield made
    made.close()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.02)


def adder(value, examples=4):
    """An edge that "trains" by adding a number to all weights."""
    app = ClientApp()

    @app.train()
    def run(message, context):
        from mmext.plugins.mvstylizer.system.aggregation import floating
        from mmext.plugins.mvstylizer.system.flower_strategy import ARRAYS, make_reply

        base = floating(message.content[ARRAYS].to_torch_state_dict())
        return make_reply(
            message, {n: torch.full_like(v, value) for n, v in base.items()}, examples
        )

    return app


def test_edges_train_and_get_the_average(clouds, tmp_path):
    """Frames -> Runner -> Flower's round over TLS -> published -> back at the edges."""
    cloud = clouds.up()
    paths = {}
    for number, count in enumerate((3, 5)):
        name = f'edge{number}'
        kept = frames(tmp_path / name / 'frames', count, 10 * number)
        paths[name] = kept.paths()
        clouds.link(name, make_app(SMALL, kept.paths, TRAIN), collection=kept)
    until(lambda: len(list(cloud.grid.get_node_ids())) == 2)
    cloud.run_round(min_edges=2, wait_s=5, timeout_s=60)
    (done,) = cloud.federation.rounds()
    assert (done.outcome, done.version, done.refused) == ('published', 1, {})
    assert done.taken == {'edge0': 3, 'edge1': 5}
    base = start()
    parts = [
        Update(name, len(found), delta_of(base, train(SMALL, base, found, TRAIN, number=1)))
        for name, found in paths.items()
    ]
    want = federated_average(base, parts, Bounds())
    moved = 0.0
    for name, value in cloud.federation.state().items():
        torch.testing.assert_close(value, want[name], rtol=0, atol=1e-6)
        moved = max(moved, (value - base[name]).abs().max().item())
    assert moved > 1e-5
    for link in clouds.links:
        until(lambda link=link: link.models.current == 1)
        for name, value in link.models.load(1).items():
            assert torch.equal(value, want[name])


def test_edge_swaps_the_model_at_a_cut(clouds):
    import test_mvst_edge as talk

    cloud = clouds.up()
    link = clouds.link('edge0', None)
    edge = clouds.edge('edge0', SMALL, models=link.models)

    async def session():
        async with clouds.channel(edge) as channel:
            call = rpc.EdgeStub(channel).Stylize(metadata=clouds.metadata())
            await call.write(talk.opening())
            await call.read()
            versions = []
            for sequence, cut in ((0, True), (1, False), (2, True)):
                if sequence == 1:
                    cloud.federation.models.publish(start())
                    while link.models.current != 1:
                        await __import__('asyncio').sleep(0.02)
                await call.write(talk.key(sequence, scene_start=cut))
                versions.append((await call.read()).styled.model_version)
            await call.done_writing()
            return versions

    assert clouds.loop.run(session()) == [0, 0, 1]
    assert edge.metrics.value('mvst_model_swaps_total') == 1


def test_poisoned_edge_is_refused_and_counted(clouds):
    cloud = clouds.up()
    clouds.link('edge0', adder(1e-3))
    clouds.link('edge1', adder(float('nan')))
    clouds.link('edge2', adder(3e-3))
    until(lambda: len(list(cloud.grid.get_node_ids())) == 3)
    cloud.run_round(3, 5, 30)
    (done,) = cloud.federation.rounds()
    assert done.refused == {'edge1': 'not finite'} and set(done.taken) == {'edge0', 'edge2'}
    assert cloud.metrics.value('mvst_updates_total', outcome='not finite') == 1
    assert cloud.metrics.value('mvst_rounds_total', outcome='published') == 1
    base = start()
    for name, value in cloud.federation.state().items():
        torch.testing.assert_close(value, base[name] + 2e-3, rtol=0, atol=1e-6)


def test_an_edge_that_fails_or_sits_out_does_not_hold_the_round(clouds, tmp_path):
    broken = ClientApp()

    @broken.train()
    def run(message, context):
        raise RuntimeError('disk full')

    cloud = clouds.up()
    clouds.link('edge0', adder(1e-3))
    clouds.link('edge1', broken)
    clouds.link('edge2', make_app(SMALL, lambda: [], TRAIN))
    until(lambda: len(list(cloud.grid.get_node_ids())) == 3)
    cloud.run_round(3, 5, 30)
    (done,) = cloud.federation.rounds()
    assert done.taken == {'edge0': 4} and done.outcome == 'published'


def test_cloud_killed_in_the_middle_of_a_round_begins_it_again(clouds):
    hold, begun = threading.Event(), threading.Event()
    slow = ClientApp()
    inner = adder(1e-3)

    @slow.train()
    def run(message, context):
        begun.set()
        hold.wait(20)
        return inner(message, context)

    cloud = clouds.up()
    port = cloud.port
    link = clouds.link('edge0', slow)
    until(lambda: len(list(cloud.grid.get_node_ids())) == 1)

    def never(*_):
        raise RuntimeError('a killed cloud closes no round')

    def first_round():
        with contextlib.suppress(RuntimeError):
            cloud.run_round(1, 5, 3)

    cloud.federation.close_round = never
    threading.Thread(target=first_round, daemon=True).start()
    assert begun.wait(10)
    clouds.down()
    until(lambda: link.metrics.value('mvst_cloud_failures_total') >= 1)
    hold.set()
    again = clouds.up(port=port)
    assert again.federation.rounds() == [] and again.federation.models.current == 0
    until(lambda: len(list(again.grid.get_node_ids())) == 1)
    again.run_round(1, 5, 30)
    (done,) = again.federation.rounds()
    assert (done.number, done.outcome, done.taken) == (1, 'published', {'edge0': 4})
    until(lambda: link.models.current == 1)


def test_cloud_down_edges_serve_on(clouds):
    import test_mvst_edge as talk

    clouds.up()
    link = clouds.link('edge0', None)
    edge = clouds.edge('edge0', SMALL, models=link.models)
    clouds.down()
    until(lambda: link.metrics.value('mvst_cloud_failures_total') >= 1)
    _, styled = clouds.loop.run(talk.talk(clouds, edge, [talk.opening(), talk.key(0)]))
    assert styled.HasField('styled')


def test_enrolment_codes_work_once(clouds):
    cloud = clouds.up()
    key = Ed25519PrivateKey.generate()
    code = cloud.codes.create('phone7', 'phone')
    ca = clouds.ca.certificate.read_bytes()

    def redeem(text, public=None):
        public = public_bytes(key) if public is None else public
        return clouds.loop.run(enroll(clouds.target(), ca, text, public))

    # A key that is none does not cost the code.
    with pytest.raises(grpc.aio.AioRpcError) as error:
        redeem(code, b'short')
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    token = redeem(code)
    claims = clouds.tokens.verify(token)
    assert (claims.device, claims.role) == ('phone7', 'phone')
    for bad in (code, 'guess', ''):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            redeem(bad)
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert code not in (clouds.folder / 'cloud' / 'enrolment.json').read_text()
    # A phone may not fetch models or work.
    credentials = Credentials(ca, token, key)

    async def get(method, request):
        async with clouds.channel(type('At', (), {'address': clouds.target().address,
                                                  'name': 'cloud'})) as channel:  # fmt: skip
            path = f'/mmext.mvstylizer.v1.Cloud/{method}'
            signed = clouds.signer('cloud', credentials).metadata(path)
            call = getattr(rpc.CloudStub(channel), method)(request, metadata=signed)
            async for _ in call:
                pass

    for method, request in (
        ('GetModel', pb.ModelRequest(version=1)),
        ('GetWork', pb.WorkRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            clouds.loop.run(get(method, request))
        assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_revocation_reaches_the_edges_and_tokens_are_renewed(clouds):
    cloud = clouds.up()
    renewed = []
    link = clouds.link('edge0', None, renew_s=1e6, on_token=renewed.append)
    until(lambda: renewed)
    old, new = link._credentials.token, renewed[0]
    assert peek(new).key == peek(old).key and peek(new).expires > peek(old).expires
    assert peek(new).id == peek(old).id
    phone = clouds.credentials()
    link._tokens.verify(phone.token)
    cloud.revoke(peek(phone.token).id)

    def refused():
        try:
            link._tokens.verify(phone.token)
        except Exception as error:
            return 'revoked' in str(error)
        return False

    until(refused)


def test_a_revocation_reaches_renewed_tokens(clouds):
    clouds.up()
    phone = clouds.credentials()
    renewed = clouds.loop.run(renew(clouds.target(), phone))
    assert clouds.tokens.verify(renewed.token).expires > peek(phone.token).expires
    # As the operator's command does it: by the file alone.
    Revocations(clouds.folder / 'cloud' / 'revoked.json').add(peek(phone.token).id)
    for credentials in (phone, renewed):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            clouds.loop.run(renew(clouds.target(), credentials))
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert error.value.details() == 'revoked token'
    with pytest.raises(TokenError, match='revoked'):
        clouds.tokens.verify(renewed.token)


def test_an_edge_starts_with_the_revocations_it_knew(clouds, tmp_path, monkeypatch):
    """The real start of an edge, once with its cloud and once without."""
    import test_mvst_edge as talk

    from mmext.plugins.mvstylizer.system import device, edge_main
    from mmext.plugins.mvstylizer.system.config import EdgeConfig

    cloud = clouds.up()
    phone, other = clouds.credentials('phone'), clouds.credentials('other')
    cloud.revoke(peek(phone.token).id)
    identity = clouds.ca.issue('edge0', ['edge0'])
    mine = clouds.credentials('edge0', 'edge')
    save_key(mine.key, tmp_path / 'state' / 'device.key')
    device.save_token(tmp_path / 'state', mine.token)
    (tmp_path / 'issuer.pub').write_text(encode(public_bytes(clouds.issuer_key)))
    with socket.create_server(('127.0.0.1', 0)) as free:
        address = f'127.0.0.1:{free.getsockname()[1]}'
    config = EdgeConfig(
        'edge0', address, identity.certificate, identity.key, tmp_path / 'state',
        clouds.ca.certificate, tmp_path / 'issuer.pub', clouds.target(), train=False,
        stylizer=dict(type='mmext.MKLColorTransfer'),
    )  # fmt: skip
    edge = type('At', (), {'address': address, 'name': 'edge0'})

    refresh = CloudLink.refresh

    async def slow(link):
        await asyncio.sleep(0.5)
        await refresh(link)

    monkeypatch.setattr(CloudLink, 'refresh', slow)

    async def life():
        stopping = asyncio.Event()
        monkeypatch.setattr(edge_main, 'stop_signal', lambda: stopping)
        serving = asyncio.create_task(edge_main._serve(config))
        answers = []
        try:
            for credentials in (phone, other):
                while True:
                    signed = clouds.metadata(credentials=credentials)
                    try:
                        answers.append(len(await talk.talk(clouds, edge, [talk.opening()], signed)))
                    except grpc.aio.AioRpcError as error:
                        if error.code() == grpc.StatusCode.UNAVAILABLE and not serving.done():
                            await asyncio.sleep(0.05)
                            continue
                        answers.append(error.details())
                    break
        finally:
            stopping.set()
            await serving
        return answers

    assert clouds.loop.run(life()) == ['revoked token', 1]
    clouds.down()
    assert clouds.loop.run(life()) == ['revoked token', 1]


def test_an_error_of_the_disk_does_not_part_an_edge_from_its_cloud(clouds):
    cloud = clouds.up()
    failures = []

    class Flaky(Collection):
        def expire(self):
            if len(failures) < 2:
                failures.append('disk')
                raise OSError(5, 'Input/output error')
            return super().expire()

    link = clouds.link('edge0', None, collection=Flaky(clouds.folder / 'frames'))
    until(lambda: len(failures) == 2)
    cloud.federation.models.publish(start())
    until(lambda: link.models.current == 1)
    assert link.metrics.value('mvst_cloud_failures_total') == 2


def test_grid_takes_a_reply_only_from_the_edge_it_asked():
    grid = MailGrid()
    for edge in ('edge0', 'edge1'):
        assert grid.fetch(edge) is None
    content = RecordDict({'config': ConfigRecord({'version': 0})})
    (number,) = grid.push_messages([Message(content, node_of('edge0'), 'train')])
    assert grid.fetch('edge1') is None
    message = unpack(pack(grid.fetch('edge0')))
    reply = unpack(pack(Message(RecordDict({'metrics': MetricRecord({'a': 1})}), reply_to=message)))
    assert not grid.deliver('edge1', reply)
    assert grid.deliver('edge0', reply) and not grid.deliver('edge0', reply)
    (got,) = grid.pull_messages([number])
    assert got.metadata.src_node_id == node_of('edge0')
    with pytest.raises(ValueError, match='no message'):
        unpack(b'\xff\xfe')
    # Names are looked up while edges come and go.
    asking = threading.Thread(target=grid.name_of, args=(node_of('edge0'),))
    with grid._news:
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
    asking.join(10)
    assert grid.name_of(node_of('edge0')) == 'edge0' and grid.name_of(7) == '7'
    late = list(grid.send_and_receive([Message(content, node_of('edge0'), 'train')], timeout=0.05))
    assert late == [] and grid.fetch('edge0') is None


def test_training_is_a_function_of_weights_frames_and_round(tmp_path):
    paths = frames(tmp_path, 3, 0).paths()
    base = start()
    first, second = (train(SMALL, base, paths, TRAIN, number=1) for _ in range(2))
    other = train(SMALL, base, paths, TRAIN, number=2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    score = held_out_loss(SMALL, base, paths, side=32, crops=4)
    assert score == held_out_loss(SMALL, base, paths, side=32, crops=4) > 0


def test_training_leaves_nothing_behind(tmp_path, monkeypatch):
    """No log file stays open, no hub and no frame in memory, also after an error."""
    paths = frames(tmp_path, 3, 0).paths()
    local_training._read.cache_clear()
    managers = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = [list(manager._instance_dict) for manager in managers]
    opened = []
    real = local_training.Runner.train

    def watched(runner):
        opened.extend(h for h in runner.logger.handlers if isinstance(h, logging.FileHandler))
        real(runner)
        assert local_training._read.cache_info().currsize == 3
        if len(opened) == 2:
            raise RuntimeError('out of memory')

    monkeypatch.setattr(local_training.Runner, 'train', watched)
    train(SMALL, start(), paths, dataclasses.replace(TRAIN, iterations=8))
    with pytest.raises(RuntimeError, match='out of memory'):
        train(SMALL, start(), paths, dataclasses.replace(TRAIN, iterations=8))
    assert len(opened) == 2 and all(handler.stream is None for handler in opened)
    assert [list(manager._instance_dict) for manager in managers] == before
    assert local_training._read.cache_info().currsize == 0


def test_collected_frames_need_consent_expire_and_can_be_deleted(world, tmp_path):
    import test_mvst_edge as talk

    now = [1000.0]
    kept = Collection(tmp_path / 'frames', ttl_s=60, per_device=3, clock=lambda: now[0])
    edge = world.edge(collection=kept)
    phones = [world.credentials(f'phone{i}') for i in range(2)]

    def send(phone, consent, count=2):
        metadata = world.metadata(credentials=phone)
        messages = [talk.opening(consent=consent), *(talk.key(i) for i in range(count))]
        world.loop.run(talk.talk(world, edge, messages, metadata))

    send(phones[0], False)
    assert kept.paths() == []
    send(phones[0], True)
    assert len(kept.paths()) == 2
    now[0] += 40
    send(phones[1], True, 5)
    assert len(kept.paths()) == 5
    assert 'phone' not in ''.join(path.parent.name for path in kept.paths())

    async def delete(phone):
        async with world.channel(edge) as channel:
            signed = world.signer(credentials=phone).metadata(
                '/mmext.mvstylizer.v1.Edge/DeleteCollected'
            )
            stub = rpc.EdgeStub(channel)
            return (
                await stub.DeleteCollected(pb.DeleteCollectedRequest(), metadata=signed)
            ).deleted

    now[0] += 25
    assert len(kept.paths()) == 3 and kept.expire() == 2
    assert world.loop.run(delete(phones[1])) == 3 and kept.paths() == []


def test_what_a_crash_left_half_written_is_deleted_too(tmp_path):
    kept = Collection(tmp_path)
    kept.add('phone', picture())
    (folder,) = tmp_path.iterdir()
    half = folder / '000000001000000-0123456789abcdef.jpg.7.9.tmp'
    half.write_bytes(b'pixels')
    assert kept.delete('phone') == 1 and not folder.exists()
    assert kept.delete('phone') == 0
    kept.add('phone', picture())
    half.write_bytes(b'pixels')
    assert len(Collection(tmp_path).paths()) == 1 and not half.exists()


def test_flower_is_told_to_stay_quiet():
    code = (
        'import mmext.plugins.mvstylizer.system.flower_grid as g, os\n'
        'from flwr.supercore import telemetry\n'
        "assert telemetry.FLWR_TELEMETRY_ENABLED == '0', telemetry.FLWR_TELEMETRY_ENABLED\n"
        "assert os.environ['FLWR_DISABLE_UPDATE_CHECK'] == '1'\n"
    )
    try:
        from flwr.supercore import telemetry  # noqa: F401
    except ImportError:
        code = code.replace('flwr.supercore', 'flwr.common')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=100)


def test_read_update_survives_nonsense():
    from mmext.plugins.mvstylizer.system.flower_strategy import read_update

    assert read_update('x', RecordDict()) is None
    assert (
        read_update('x', RecordDict({'arrays': ConfigRecord(), 'metrics': MetricRecord()})) is None
    )
    metrics = MetricRecord({'num-examples': 3})
    assert read_update('x', RecordDict({'arrays': ArrayRecord(), 'metrics': metrics})) is None
    arrays = ArrayRecord({'a': torch.ones(2)})
    arrays['a'].data = b'junk'
    update = read_update('x', RecordDict({'arrays': arrays, 'metrics': metrics}))
    assert update.delta['a'].numel() == 0


def test_stale_replies_are_left_out(tmp_path):
    """An edge that answers for another version than the round's does not count."""
    from mmext.plugins.mvstylizer.system.flower_strategy import GatedFedAvg, make_reply

    models = ModelStore(tmp_path / 'models')
    federation = Federation(models, tmp_path, start, lambda state: 1.0)
    strategy = GatedFedAvg(federation)
    grid = MailGrid()
    grid.fetch('edge0')
    arrays = ArrayRecord(dict(start()))
    (message,) = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    assert message.content['config']['round'] == 1
    delta = {name: torch.zeros_like(value) for name, value in start().items()}
    stale = make_reply(message, delta, 4)
    stale.content['metrics']['version'] = 7
    strategy.aggregate_train(1, [stale])
    strategy.aggregate_train(1, [make_reply(message, delta, 4)])
    assert [done.outcome for done in federation.rounds()] == ['no updates', 'published']
