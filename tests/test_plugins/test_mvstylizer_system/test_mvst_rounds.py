"""Federated rounds by Flower between a cloud and edges over TLS."""

import contextlib
import subprocess
import sys
import threading

import pytest
import torch

pytest.importorskip('flwr')

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from mvst_cloud import SMALL, TRAIN, adder, frames, start, until  # noqa: E402

from mmext.plugins.mvstylizer.system import mvstylizer_pb2_grpc as rpc  # noqa: E402
from mmext.plugins.mvstylizer.system.aggregation import Bounds, Update, federated_average  # noqa: E402
from mmext.plugins.mvstylizer.system.collection import Collection  # noqa: E402
from mmext.plugins.mvstylizer.system.federation import Federation  # noqa: E402
from mmext.plugins.mvstylizer.system.flower_edge import make_app  # noqa: E402
from mmext.plugins.mvstylizer.system.flower_grid import MailGrid, node_of, pack, unpack  # noqa: E402
from mmext.plugins.mvstylizer.system.local_training import delta_of, train  # noqa: E402
from mmext.plugins.mvstylizer.system.models import ModelStore  # noqa: E402


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


def test_edge_that_restarts_in_the_middle_of_a_round_gets_its_work_again(clouds):
    begun, hold = threading.Event(), threading.Event()
    killed = ClientApp()

    @killed.train()
    def run(message, context):
        begun.set()
        hold.wait(20)
        raise RuntimeError('a killed edge answers nothing')

    cloud = clouds.up()
    first = clouds.link('edge0', killed)
    until(lambda: len(list(cloud.grid.get_node_ids())) == 1)
    rounds = threading.Thread(target=cloud.run_round, args=(1, 5, 15), daemon=True)
    rounds.start()
    assert begun.wait(10)
    clouds.loop.run(first.stop())
    clouds.link('edge0', adder(1e-3))
    rounds.join(20)
    hold.set()
    (done,) = cloud.federation.rounds()
    assert (done.outcome, done.taken) == ('published', {'edge0': 4})


def test_cloud_down_edges_serve_on(clouds):
    import test_mvst_edge as talk

    clouds.up()
    link = clouds.link('edge0', None)
    edge = clouds.edge('edge0', SMALL, models=link.models)
    clouds.down()
    until(lambda: link.metrics.value('mvst_cloud_failures_total') >= 1)
    _, styled = clouds.loop.run(talk.talk(clouds, edge, [talk.opening(), talk.key(0)]))
    assert styled.HasField('styled')


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
    # It asks again: the message was lost on the way or with the process.
    assert grid.fetch('edge0').metadata.message_id == number
    reply = unpack(pack(Message(RecordDict({'metrics': MetricRecord({'a': 1})}), reply_to=message)))
    assert not grid.deliver('edge1', reply)
    assert grid.deliver('edge0', reply) and not grid.deliver('edge0', reply)
    assert grid.fetch('edge0') is None
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
