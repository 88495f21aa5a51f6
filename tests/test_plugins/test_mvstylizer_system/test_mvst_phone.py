"""Phone against real edges over TLS through a bad network: every frame comes out, in time."""

import asyncio
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from mvst_world import MKL, SlowStylizer, picture, style_bytes

from mmext.plugins.mvstylizer.interfaces import Decision
from mmext.plugins.mvstylizer.keyframes import FixedInterval
from mmext.plugins.mvstylizer.propagation import AffinePropagation
from mmext.plugins.mvstylizer.system.limits import Limits
from mmext.plugins.mvstylizer.system.link import EdgeLink, Key, LinkOptions, Reply, Target
from mmext.plugins.mvstylizer.system.player import Player, PlayerOptions, Way
from mmext.plugins.mvstylizer.system.proxy import FaultProxy, Faults

SLOW = dict(type='SlowStylizer')
QUICK = LinkOptions(stall_s=0.8, connect_s=2, backoff_s=0.05, backoff_max_s=0.2)


def clip(frames=24, cuts=()):
    """A picture that moves by a pixel a frame; another one after each cut."""
    wide = [picture(48, 64 + frames, seed) for seed in range(len(cuts) + 1)]
    out = []
    for index in range(frames):
        scene = sum(index >= cut for cut in cuts)
        out.append(np.ascontiguousarray(wide[scene][:, index : index + 64]))
    return out


class CutAt(FixedInterval):
    """Keys at an interval, cuts where the test says."""

    def __init__(self, interval, cuts=()):
        super().__init__(interval)
        self.cuts, self.index = set(cuts), -1

    def decide(self, frame):
        self.index += 1
        cut = self.index in self.cuts
        start = max([0, *(c for c in self.cuts if c <= self.index)])
        return Decision(key=cut or (self.index - start) % self.max_gap == 0, cut=cut)


def player(interval=4, cuts=(), between=None, **options):
    options = {'latency_s': 0.4, 'quality': None, **options}
    affine = AffinePropagation(flow_side=64, fit_side=64)
    return Player(
        CutAt(interval, cuts), between or affine, affine, options=PlayerOptions(**options)
    )


def play(world, edges, frames, made=None, proxies=None, link_options=QUICK, fps=25, on_frame=None):
    """All outputs of a clip and the link that carried it."""
    made = made or player()
    addresses = [f'127.0.0.1:{proxy.port}' for proxy in proxies or ()]
    addresses = addresses or [edge.address for edge in edges]
    targets = [Target(edge.name, at) for edge, at in zip(edges, addresses, strict=True)]
    link = EdgeLink(
        targets, world.credentials(), style_bytes(), made.on_reply, options=link_options
    )
    outputs = []
    with link:
        for output in made.play(((frame, i) for i, frame in enumerate(frames)), link, fps):
            outputs.append(output)
            if on_frame is not None:
                on_frame(output)
    assert [output.index for output in outputs] == list(range(len(frames)))
    assert [output.tag for output in outputs] == list(range(len(frames)))
    assert Counter(output.way.value for output in outputs) == made.ways
    return outputs, link


def late(outputs):
    return max(output.latency for output in outputs)


def test_a_good_network_gives_keys_and_frames_between_two_keys(world):
    edge = world.edge(quality=None)
    frames = clip(17)
    outputs, link = play(world, [edge], frames, player(latency_s=10))
    ways = [output.way for output in outputs]
    assert ways == [Way.KEY if i % 4 == 0 else Way.BIDIRECTIONAL for i in range(17)]
    # MKL is one affine map of colours a frame, which the propagation must find again.
    from mmext.registry import STYLIZERS

    stylizer = STYLIZERS.build(dict(MKL))
    code = stylizer.encode_style(picture(40, 40, 9))
    for frame, output in zip(frames, outputs, strict=True):
        want = stylizer.stylize(frame, code).astype(int)
        assert np.abs(output.frame - want).mean() < 4
    assert link.counts['styled'] == 5 and link.counts['sessions'] == 1
    assert edge.metrics.value('mvst_keys_answered_total', answer='styled') == 5


def test_the_ladder_step_by_step():
    """Without any network: which answers give which way."""

    class Silent:
        def offer(self, key):
            keys.append(key)

    keys = []
    # All frames are due after a second; nothing here takes another one.
    made = player(4, cuts=(8, 12), latency_s=1.0)
    stream = made.play(((frame, None) for frame in clip(16, (8, 12))), Silent())
    ways = {}

    def pull(count):
        for _ in range(count):
            output = next(stream)
            ways[output.index] = output.way

    pull(2)
    # The first key comes late: its scene goes on causally, then between two keys.
    made.on_reply(Reply(0, 255 - clip(1)[0], 1))
    pull(1)
    made.on_reply(Reply(4, 255 - clip(5)[4], 1))
    pull(3)
    # A new scene without an answer: the colours of the scene before it.
    pull(6)
    # A scene whose keys come from two models is not blended.
    made.on_reply(Reply(12, None, reason='refused'))
    pull(4)
    assert [ways[i] for i in range(16)] == [
        Way.ORIGINAL, Way.ORIGINAL, Way.CAUSAL, Way.BIDIRECTIONAL, Way.KEY, Way.CAUSAL,
        *[Way.CAUSAL] * 2, *[Way.GLOBAL] * 8,
    ]  # fmt: skip
    assert [key.sequence for key in keys] == [0, 4, 8, 12]
    assert [key.scene_start for key in keys] == [True, False, True, True]


def test_keys_of_two_models_are_not_blended():
    class Instant:
        def offer(self, key):
            made.on_reply(Reply(key.sequence, 255 - frames[key.sequence], key.sequence // 4 + 1))

    frames = clip(9)
    made = player(latency_s=5)
    outputs = list(made.play(((frame, None) for frame in frames), Instant()))
    assert {output.way for output in outputs} == {Way.KEY, Way.CAUSAL}


def test_nothing_is_carried_over_a_cut(world):
    edge = world.edge(quality=None)
    frames = clip(16, cuts=(6,))
    outputs, _ = play(world, [edge], frames, player(4, cuts=(6,), latency_s=10))
    ways = [output.way.value for output in outputs]
    key, both, causal = Way.KEY.value, Way.BIDIRECTIONAL.value, Way.CAUSAL.value
    assert ways == [key, *[both] * 3, key, causal, *[key, both, both, both] * 2, key, causal]


def test_no_edge_at_all(world):
    edge = world.edge()
    with FaultProxy('127.0.0.1', edge.port, Faults(down=True)) as proxy:
        outputs, link = play(
            world, [edge], clip(), player(latency_s=0.1, lookahead=4), proxies=[proxy]
        )
    assert {output.way for output in outputs} == {Way.ORIGINAL}
    assert late(outputs) < 1
    assert link.counts['connection: unavailable'] >= 1
    np.testing.assert_array_equal(outputs[5].frame, clip()[5])


def test_a_wrong_token_gives_original_frames_and_no_decoding(world):
    edge = world.edge()
    world.tokens.revoke([])
    stranger = type(world)(world.folder / 'stranger')
    stranger.ca = world.ca
    try:
        outputs, link = play(stranger, [edge], clip(8), player(latency_s=0.2, lookahead=4))
    finally:
        stranger.close()
    assert {output.way for output in outputs} == {Way.ORIGINAL}
    assert link.counts['connection: unauthenticated'] >= 1
    assert edge.metrics.value('mvst_pictures_decoded_total') == 0


def test_an_edge_that_is_killed_and_restarted(world, monkeypatch):
    """The connection breaks, the edge is away, comes back; what was unanswered is sent again."""
    monkeypatch.setattr(SlowStylizer, 'delay', 0.0)
    edge = world.edge(stylizer=SLOW)
    later = []

    def disturb(output):
        if output.index == 4:
            # Leaves a key unanswered.
            SlowStylizer.delay = 1.5
        if output.index == 10:
            world.loop.run(edge._server.stop(None))
            SlowStylizer.delay = 0.0
        if output.index == 22:
            later.append(world.edge(stylizer=SLOW, port=edge.port))

    made = player(realtime=True, latency_s=0.25)
    outputs, link = play(world, [edge], clip(52), made, on_frame=disturb, fps=20)
    assert link.counts['sessions'] == 2 and link.counts['sent again'] >= 1
    assert later[0].metrics.value('mvst_keys_answered_total', answer='styled') >= 3
    assert late(outputs) < 0.25 + 0.5
    ways = [output.way for output in outputs]
    assert Way.BIDIRECTIONAL in ways[:8] and Way.CAUSAL in ways[8:30]
    assert Way.BIDIRECTIONAL in ways[30:]
    assert Way.ORIGINAL not in ways[4:]


def test_a_call_that_is_over_is_a_lost_connection():
    """gRPC's write raises InvalidStateError then, and the link must try again."""
    link = EdgeLink([Target('edge0', 'localhost:1')], None, b'', print)
    link._window = 4
    link._put(Key(0, b'', True, time.monotonic() + 60))

    class Over:
        async def write(self, message):
            raise asyncio.InvalidStateError('RPC already finished.')

        async def code(self):
            return grpc.StatusCode.UNAVAILABLE

    with pytest.raises(ConnectionError, match='closed: unavailable'):
        asyncio.run(link._send(Over()))
    assert list(link._flying) == [0]


def test_no_error_ends_the_link(world, monkeypatch):
    edge = world.edge(quality=None)
    converse = EdgeLink._converse
    times = []

    async def fails_at_first(link, target):
        times.append(time.monotonic())
        if len(times) < 4:
            link.session = 'was open'
            raise RuntimeError('nobody thought of this')
        await converse(link, target)

    monkeypatch.setattr(EdgeLink, '_converse', fails_at_first)
    outputs, link = play(world, [edge], clip(9), player(latency_s=10))
    assert link.counts['connection: failed'] == 3 and link.counts['sessions'] == 1
    assert {output.way for output in outputs} == {Way.KEY, Way.BIDIRECTIONAL}
    # With pauses that grow: at least half of 0.05, 0.1 and 0.2 s.
    assert times[3] - times[0] >= 0.175


def test_the_second_edge_takes_over(world, monkeypatch):
    first, second = world.edge('edge0'), world.edge('edge1')
    with FaultProxy('127.0.0.1', first.port) as one, FaultProxy('127.0.0.1', second.port) as two:

        def disturb(output):
            if output.index == 5:
                one.faults.down = True
                one.reset()

        outputs, link = play(
            world, [first, second], clip(), player(latency_s=3, lookahead=6), proxies=[one, two],
            on_frame=disturb,
        )  # fmt: skip
    assert link.counts['sessions'] == 2
    assert {output.way for output in outputs} == {Way.KEY, Way.BIDIRECTIONAL, Way.CAUSAL}
    assert second.metrics.value('mvst_keys_answered_total', answer='styled') >= 1


def test_drained_edge_hands_over_without_a_lost_key(world, monkeypatch):
    monkeypatch.setattr(SlowStylizer, 'delay', 0.05)
    first, second = world.edge('edge0', SLOW), world.edge('edge1', SLOW)
    state = {}

    def disturb(output):
        if output.index == 4 and not state:
            state['stop'] = world.loop.loop.call_soon_threadsafe(
                lambda: state.update(task=world.loop.loop.create_task(first.stop()))
            )

    outputs, link = play(
        world, [first, second], clip(32), player(latency_s=5, lookahead=6), on_frame=disturb
    )
    world.edges.remove(first)
    assert {output.way for output in outputs} == {Way.KEY, Way.BIDIRECTIONAL, Way.CAUSAL}
    assert link.counts['drained'] == 1 and link.counts['styled'] == 8
    assert second.metrics.value('mvst_keys_answered_total', answer='styled') >= 1


def test_an_edge_ten_times_slower_never_stalls_the_output(world, monkeypatch):
    monkeypatch.setattr(SlowStylizer, 'delay', 0.5)
    edge = world.edge(stylizer=SLOW)
    made = player(realtime=True, latency_s=0.2)
    outputs, link = play(world, [edge], clip(40), made, fps=20)
    assert late(outputs) < 0.2 + 0.5
    ways = Counter(output.way for output in outputs)
    assert ways[Way.CAUSAL] > 10 and ways[Way.KEY] == 0
    assert link.counts['styled'] >= 2


def test_delay_rate_and_stalls(world):
    edge = world.edge()
    faults = Faults(delay_s=0.15, rate_bps=1e6, stall_probability=0.05, stall_s=0.2)
    with FaultProxy('127.0.0.1', edge.port, faults, seed=3) as proxy:
        outputs, link = play(
            world, [edge], clip(24), player(latency_s=4, lookahead=24), proxies=[proxy]
        )
        assert proxy.up > link.up > 0 and proxy.down > link.down > 0
    assert {output.way for output in outputs} == {Way.KEY, Way.BIDIRECTIONAL, Way.CAUSAL}
    assert min(link.round_trips) > 0.3


def test_a_frozen_connection_is_given_up(world):
    edge, spare = world.edge('edge0'), world.edge('edge1')
    with FaultProxy('127.0.0.1', edge.port) as one, FaultProxy('127.0.0.1', spare.port) as two:

        def disturb(output):
            if output.index == 4:
                one.faults.frozen = True

        outputs, link = play(
            world, [edge, spare], clip(40), player(latency_s=3, lookahead=4),
            proxies=[one, two], on_frame=disturb,
        )  # fmt: skip
    assert link.counts['connection: stalled'] >= 1 and link.counts['sent again'] >= 1
    assert {output.way for output in outputs} <= {Way.KEY, Way.BIDIRECTIONAL, Way.CAUSAL}


def test_fifty_phones_at_once(world):
    edge = world.edge(limits=Limits(sessions=64, queue=32, sessions_per_device=1))

    async def one(number):
        import test_mvst_edge as t

        metadata = world.metadata(credentials=world.credentials(f'phone{number}'))
        return await t.talk(world, edge, [t.opening(), *(t.key(i) for i in range(4))], metadata)

    async def all_of_them():
        return await asyncio.gather(*(one(number) for number in range(50)))

    conversations = world.loop.run(all_of_them())
    answers = Counter()
    for opened, *rest in conversations:
        assert opened.HasField('opened') and len(rest) == 4
        session = opened.opened.session
        for answer in rest:
            kind = answer.WhichOneof('message')
            assert getattr(answer, kind).session == session
            answers[kind] += 1
    assert answers['styled'] + answers['refused'] == 200
    assert edge.metrics.value('mvst_keys_accepted_total') == answers['styled']
    assert edge.service.quota.sessions == 0 and edge.metrics.value('mvst_sessions') == 0


def test_model_changes_at_a_cut_only(world):
    """One version a scene, also over a reconnection; the new one from the next cut on."""
    import torch

    from mmext.plugins.mvstylizer.system.models import ModelStore

    models = ModelStore(world.folder / 'versions')
    edge = world.edge(stylizer=dict(type='VersionStylizer'), models=models, quality=None)
    with FaultProxy('127.0.0.1', edge.port) as proxy:

        def disturb(output):
            if output.index == 2:
                models.publish({'shade': torch.tensor(7.0)})
                proxy.reset()

        outputs, link = play(
            world, [edge], clip(24, cuts=(12,)), player(4, (12,), latency_s=5, lookahead=6),
            proxies=[proxy], on_frame=disturb,
        )  # fmt: skip
    assert link.counts['sessions'] == 2
    shades = [int(round(output.frame.mean())) for output in outputs]
    assert set(shades[:12]) == {0} and set(shades[12:]) == {7}
    assert {output.way for output in outputs} <= {Way.KEY, Way.BIDIRECTIONAL, Way.CAUSAL}


def test_outbox_drops_the_oldest_key_that_starts_no_scene():
    replies = []

    class Plain(EdgeLink):
        def __init__(self):
            super().__init__(
                [Target('edge0', 'localhost:1')], None, b'', replies.append,
                options=LinkOptions(outbox=3),
            )  # fmt: skip

    link = Plain()
    far = time.monotonic() + 60
    for sequence, start in ((0, True), (4, False), (8, False), (12, False), (16, True)):
        link._put(Key(sequence, b'', start, far))
    assert [reply.sequence for reply in replies] == [4, 8]
    assert [key.sequence for key in link._outbox] == [0, 12, 16]


def test_bad_options_name_the_mend():
    with pytest.raises(ValueError, match='targets is empty'):
        EdgeLink([], None, b'', print)
    with pytest.raises(ValueError, match='latency_s'):
        PlayerOptions(latency_s=0)


def test_answers_of_another_session_count_for_nothing():
    from mmext.plugins.mvstylizer.system import mvstylizer_pb2 as pb
    from mmext.plugins.mvstylizer.system.images import encode

    replies = []
    link = EdgeLink([Target('edge0', 'localhost:1')], None, b'', replies.append)
    link.session = 'mine'
    link._flying[3] = Key(3, b'', True, time.monotonic() + 60)
    image = encode(picture(), None)

    class Call:
        answers = [
            pb.EdgeMessage(styled=pb.Styled(session='other', sequence=3, image=image)),
            pb.EdgeMessage(styled=pb.Styled(session='mine', sequence=4, image=image)),
            pb.EdgeMessage(draining=pb.Draining()),
        ]

        async def read(self):
            return self.answers.pop(0)

    with pytest.raises(IndexError):
        asyncio.run(link._receive(Call()))
    assert replies == [] and link.counts['unmatched'] == 2
    assert list(link._flying) == [3]


def test_a_phone_that_is_too_slow_takes_the_cheap_way():
    """Flow that takes longer than there is time gives way to one colour transform a frame."""
    frames = clip(30)

    class Instant:
        def offer(self, key):
            made.on_reply(Reply(key.sequence, 255 - frames[key.sequence], 1))

    class Heavy(AffinePropagation):
        def propagate(self, *args):
            time.sleep(0.05)
            return super().propagate(*args)

    made = player(30, between=Heavy(flow_side=64, fit_side=64), latency_s=0.1, lookahead=6)
    made._causal = made._between
    outputs = list(made.play(((frame, None) for frame in frames), Instant()))
    ways = Counter(output.way for output in outputs)
    assert ways[Way.GLOBAL] > 5 and ways[Way.CAUSAL] > 3
    # Six frames wait, each takes 0.05 s at most, and none is begun later than twice the promise.
    assert late(outputs) < 0.2 + 0.05 + 0.3
