"""Edge over TLS: what is served, refused before decoding, bounded, drained."""

import asyncio
import contextlib
import io
import json
import struct
import zlib

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mvst_world import MKL, SlowStylizer, picture, style_bytes
from PIL import Image

from mmext.plugins.mvstylizer.system import logs
from mmext.plugins.mvstylizer.system import mvstylizer_pb2 as pb
from mmext.plugins.mvstylizer.system import mvstylizer_pb2_grpc as rpc
from mmext.plugins.mvstylizer.system.authentication import admitted
from mmext.plugins.mvstylizer.system.images import ImageLimits, decode, encode
from mmext.plugins.mvstylizer.system.limits import Limits
from mmext.plugins.mvstylizer.system.link import METHOD
from mmext.plugins.mvstylizer.system.tokens import TokenIssuer, peek, public_bytes
from mmext.registry import STYLIZERS


def opening(**fields):
    return pb.PhoneMessage(open=pb.Open(style=style_bytes(), **fields))


def key(sequence, image=None, **fields):
    image = encode(picture(seed=sequence), None) if image is None else image
    return pb.PhoneMessage(key=pb.KeyFrame(sequence=sequence, image=image, **fields))


async def talk(world, edge, messages, metadata=None, answers=None):
    """Send messages on one stream, return the answers (or raise what the edge said)."""
    async with world.channel(edge) as channel:
        call = rpc.EdgeStub(channel).Stylize(metadata=metadata or world.metadata(edge.name))
        await admitted(call)
        # A write fails where the edge has already said no; what it said comes from read().
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for message in messages:
                await call.write(message)
            if answers is None:
                await call.done_writing()
        found = []
        while answers is None or len(found) < answers:
            message = await call.read()
            if message is grpc.aio.EOF:
                break
            found.append(message)
        return found


def refusal(world, edge, messages, metadata=None):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        world.loop.run(talk(world, edge, messages, metadata))
    return error.value.code(), error.value.details()


def test_a_stream_stylises_like_the_stylizer_itself(world):
    edge = world.edge(quality=None)
    frames = [picture(seed=i) for i in range(3)]
    messages = [opening(), *(key(i) for i in range(3))]
    opened, *styled = world.loop.run(talk(world, edge, messages))
    assert opened.opened.model_version == 0
    assert [answer.styled.sequence for answer in styled] == [0, 1, 2]
    assert {answer.styled.session for answer in styled} == {opened.opened.session}
    stylizer = STYLIZERS.build(dict(MKL))
    code = stylizer.encode_style(picture(40, 40, 9))
    for frame, answer in zip(frames, styled, strict=True):
        got = decode(answer.styled.image, ImageLimits())
        np.testing.assert_array_equal(got, stylizer.stylize(frame, code))
    assert edge.metrics.value('mvst_keys_accepted_total') == 3
    assert edge.metrics.value('mvst_keys_answered_total', answer='styled') == 3


def test_health_service_needs_no_token(world):
    edge = world.edge()

    async def check():
        async with world.channel(edge) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service='mmext.mvstylizer.v1.Edge')
            return (await stub.Check(request)).status

    assert world.loop.run(check()) == health_pb2.HealthCheckResponse.SERVING


def test_health_says_when_an_edge_drains(world):
    edge = world.edge()

    async def watch():
        async with world.channel(edge) as channel:
            request = health_pb2.HealthCheckRequest(service='mmext.mvstylizer.v1.Edge')
            call = health_pb2_grpc.HealthStub(channel).Watch(request)
            told = [(await call.read()).status]
            stopping = asyncio.create_task(edge.stop())
            told.append((await call.read()).status)
            call.cancel()
            await stopping
            return told

    told = world.loop.run(watch())
    world.edges.remove(edge)
    response = health_pb2.HealthCheckResponse
    assert told == [response.SERVING, response.NOT_SERVING]


def test_a_server_must_prove_its_name(world, tmp_path):
    edge = world.edge()
    other = type(world)(tmp_path / 'other')
    try:

        async def call(ca_world, name):
            async with ca_world.channel(edge, name) as channel:
                call = rpc.EdgeStub(channel).Stylize(metadata=world.metadata())
                await asyncio.wait_for(call.write(opening()), 10)
                await call.read()

        for ca_world, name in ((other, 'edge0'), (world, 'edge1')):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                world.loop.run(call(ca_world, name))
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        other.close()


def test_bad_tokens_are_refused_before_anything_is_decoded(world, monkeypatch):
    parsed = []
    parse = pb.PhoneMessage.FromString
    counted = lambda data: (parsed.append(data), parse(data))[1]  # noqa: E731
    monkeypatch.setattr(pb.PhoneMessage, 'FromString', counted)
    edge = world.edge()
    good = world.credentials()
    expired = world.credentials(lifetime_s=1e-6)
    stranger = world.credentials()
    forged = TokenIssuer(stranger.key).issue('phone', 'phone', public_bytes(stranger.key), 60)
    forged = type(good)(good.ca, forged, stranger.key)
    stolen = type(good)(good.ca, good.token, stranger.key)
    revoked = world.credentials()
    world.tokens.revoke([world.tokens.verify(revoked.token).id])
    cases = {
        'no token': (('x-nonce', 'n' * 20),),
        'malformed token': (('authorization', 'Bearer nonsense'),),
        'wrong signature': world.metadata(credentials=forged),
        'expired token': world.metadata(credentials=expired),
        'revoked token': world.metadata(credentials=revoked),
        'wrong proof': world.metadata(credentials=stolen),
    }
    # Signed for another edge.
    cases['wrong proof '] = world.metadata('edge1', good)
    bomb = [opening(), key(0, b'not a picture')]
    for reason, metadata in cases.items():
        code, details = refusal(world, edge, bomb, metadata)
        assert (code, details) == (grpc.StatusCode.UNAUTHENTICATED, reason.strip())
    once = world.metadata(credentials=good)
    assert parsed == []
    assert len(world.loop.run(talk(world, edge, [opening()], once))) == 1
    assert len(parsed) == 1
    assert refusal(world, edge, bomb, once) == (
        grpc.StatusCode.UNAUTHENTICATED, 'replayed call',
    )  # fmt: skip
    of_an_edge = world.metadata(credentials=world.credentials('edge9', 'edge'))
    code, details = refusal(world, edge, bomb, of_an_edge)
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, 'wrong role')
    # Only the style of the one good call was parsed and decoded.
    assert len(parsed) == 1
    assert edge.metrics.value('mvst_pictures_decoded_total') == 1
    assert edge.metrics.value('mvst_calls_refused_total', reason='replayed call') == 1


@pytest.mark.parametrize('how', ['expired', 'revoked'])
def test_a_running_session_ends_with_its_token(world, how):
    """At the next key; what was accepted before is answered."""
    edge = world.edge()
    phone = world.credentials()

    async def session():
        async with world.channel(edge) as channel:
            call = rpc.EdgeStub(channel).Stylize(metadata=world.metadata(credentials=phone))
            for message in (opening(), key(0)):
                await call.write(message)
                await call.read()
            if how == 'revoked':
                world.tokens.revoke([peek(phone.token).id])
            else:
                world.tokens._clock = lambda: peek(phone.token).expires
            await call.write(key(1))
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            return error.value

    error = world.loop.run(session())
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED and error.details() == f'{how} token'
    assert edge.metrics.value('mvst_keys_accepted_total') == 1
    assert edge.metrics.value('mvst_sessions_cut_total', why=f'{how} token') == 1


def test_a_frame_that_cannot_be_kept_is_still_stylised(world):
    class Full:
        def add(self, device, frame):
            raise OSError(28, 'No space left on device')

    edge = world.edge(collection=Full())
    _, answer = world.loop.run(talk(world, edge, [opening(consent=True), key(0)]))
    assert answer.HasField('styled')


def png_bomb(width, height):
    """PNG whose header promises many pixels and whose body is small."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

    body = zlib.compress(b'\0' * 1000)
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', body) + chunk(b'IEND', b'')
    )


def test_bad_pictures_are_refused_and_the_stream_goes_on(world):
    edge = world.edge(limits=Limits(max_side=256, max_pixels=20_000, max_image_bytes=50_000))
    progressive = io.BytesIO()
    Image.fromarray(picture()).save(progressive, 'JPEG', progressive=True)
    gif = io.BytesIO()
    Image.fromarray(picture()).save(gif, 'GIF')
    whole = encode(picture(), 90)
    cases = [
        (png_bomb(60_000, 60_000), pb.TOO_LARGE),
        (png_bomb(200, 200), pb.TOO_LARGE),
        (b'\xff' * 50_001, pb.TOO_LARGE),
        (b'', pb.BAD_IMAGE),
        (b'GIF89a', pb.BAD_IMAGE),
        (gif.getvalue(), pb.BAD_IMAGE),
        (progressive.getvalue(), pb.BAD_IMAGE),
        (whole[:30], pb.BAD_IMAGE),
    ]
    messages = [opening(), *(key(i, data) for i, (data, _) in enumerate(cases))]
    _, *answers = world.loop.run(talk(world, edge, messages))
    assert [answer.refused.reason for answer in answers] == [reason for _, reason in cases]
    assert edge.metrics.value('mvst_keys_accepted_total') == 0
    assert edge.metrics.value('mvst_pictures_decoded_total') == 1
    # A good header with a damaged body is found by the decoder; the session lives on.
    _, broken, fine = world.loop.run(
        talk(world, edge, [opening(), key(0, whole[: len(whole) // 2]), key(1)])
    )
    assert broken.refused.reason == pb.BAD_IMAGE and fine.styled.sequence == 1
    code, details = refusal(world, edge, [pb.PhoneMessage(open=pb.Open(style=b'no picture'))])
    assert code == grpc.StatusCode.INVALID_ARGUMENT and 'style' in details


def test_oversized_and_malformed_messages_end_only_their_stream(world):
    edge = world.edge(limits=Limits(max_message_bytes=60_000, max_image_bytes=50_000))
    code, _ = refusal(world, edge, [opening(), key(0, b'\0' * 70_000)])
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED

    async def raw(*parts):
        async with world.channel(edge) as channel:
            call = channel.stream_stream(METHOD)(metadata=world.metadata())
            for part in parts:
                await call.write(part)
            await call.done_writing()
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
            return await call.code()

    garbage = b'\xff\xff\xff\xff\xff'
    first = opening().SerializeToString()
    for parts in ([garbage], [first, garbage], [key(0).SerializeToString()], [first, first], []):
        assert world.loop.run(raw(*parts)) == grpc.StatusCode.INVALID_ARGUMENT
    _, fine = world.loop.run(talk(world, edge, [opening(), key(0)]))
    assert fine.HasField('styled')
    assert edge.service.quota.sessions == 0


def test_each_accepted_key_is_answered_once_and_duplicates_refused(world):
    edge = world.edge()
    messages = [opening(), key(3), key(3), key(2), key(4)]
    _, *answers = world.loop.run(talk(world, edge, messages))
    styled = [a.styled.sequence for a in answers if a.HasField('styled')]
    refused = [(a.refused.sequence, a.refused.reason) for a in answers if a.HasField('refused')]
    assert styled == [3, 4]
    assert refused == [(3, pb.DUPLICATE), (2, pb.DUPLICATE)]


def test_quota_queue_and_deadline_bound_what_a_device_gets(world, monkeypatch):
    edge = world.edge(limits=Limits(keys_per_s=1, burst=3, max_in_flight=9))
    messages = [opening(), *(key(i) for i in range(6))]
    _, *answers = world.loop.run(talk(world, edge, messages))
    refused = [answer.refused for answer in answers if answer.HasField('refused')]
    assert len(refused) == 3 and {r.reason for r in refused} == {pb.QUOTA}
    assert all(0 < r.retry_after_ms <= 1100 for r in refused)

    monkeypatch.setattr(SlowStylizer, 'delay', 0.1)
    slow = world.edge('edge1', dict(type='SlowStylizer'), Limits(queue=2, max_in_flight=9))
    messages = [opening(), key(0), key(1, deadline_ms=20), *(key(i) for i in range(2, 7))]
    _, *answers = world.loop.run(talk(world, slow, messages))
    reasons = [answer.refused.reason for answer in answers if answer.HasField('refused')]
    assert pb.DEADLINE in reasons and pb.QUEUE_FULL in reasons
    assert len(answers) == 7
    accepted = slow.metrics.value('mvst_keys_accepted_total')
    answered = sum(
        slow.metrics.value('mvst_keys_answered_total', answer=answer)
        for answer in ('styled', 'deadline')
    )
    assert accepted == answered


def test_sessions_of_a_device_are_limited(world):
    edge = world.edge(limits=Limits(sessions_per_device=1))
    phone = world.credentials()

    async def both():
        async with world.channel(edge) as channel:
            first = rpc.EdgeStub(channel).Stylize(metadata=world.metadata(credentials=phone))
            await first.write(opening())
            await first.read()
            second = rpc.EdgeStub(channel).Stylize(metadata=world.metadata(credentials=phone))
            code = await second.code()
            await first.done_writing()
            return code, await first.code()

    assert world.loop.run(both()) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK,
    )  # fmt: skip


def test_drain_answers_what_was_accepted(world, monkeypatch):
    monkeypatch.setattr(SlowStylizer, 'delay', 0.15)
    edge = world.edge('edge1', dict(type='SlowStylizer'))

    async def during():
        async with world.channel(edge) as channel:
            call = rpc.EdgeStub(channel).Stylize(metadata=world.metadata('edge1'))
            await call.write(opening())
            await call.read()
            for i in range(3):
                await call.write(key(i))
            while edge.metrics.value('mvst_keys_accepted_total') < 3:
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(edge.stop())
            answers = []
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.append(answer.WhichOneof('message'))
            await stopping
            return answers, await call.code()

    answers, code = world.loop.run(during())
    world.edges.remove(edge)
    assert sorted(answers) == ['draining', 'styled', 'styled', 'styled']
    assert code == grpc.StatusCode.OK


def test_a_slow_reader_is_cut_and_others_are_served(world):
    limits = Limits(write_timeout_s=0.7, max_in_flight=8, keys_per_s=1e6, burst=10_000)
    edge = world.edge(quality=None, limits=limits)
    # Noise: answers that no flow-control window holds.
    noise = encode(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8), None)

    async def glut():
        async with world.channel(edge) as channel:
            call = rpc.EdgeStub(channel).Stylize(metadata=world.metadata())
            await call.write(opening())

            async def send():
                for i in range(200):
                    await call.write(key(i, noise))

            sending = asyncio.create_task(send())
            _, fine = await talk(world, edge, [opening(), key(0)])
            while edge.metrics.value('mvst_sessions_cut_total', why='slow reader') < 1:
                await asyncio.sleep(0.05)
            sending.cancel()
            call.cancel()
            return fine

    assert world.loop.run(glut()).HasField('styled')
    # Not read further than the window: the flood stayed with its sender.
    assert edge.metrics.value('mvst_keys_accepted_total') < 100


def test_logs_are_json_and_hold_no_secret(world):
    stream = io.StringIO()
    logs.start('edge', 'DEBUG', stream)
    edge = world.edge()
    phone = world.credentials()
    metadata = world.metadata(credentials=phone)
    world.loop.run(talk(world, edge, [opening(consent=True), key(0)], metadata))
    refusal(world, edge, [opening()], metadata)
    with pytest.raises(ValueError, match='FIELDS'):
        logs.event('leak', token=phone.token)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {'session opened', 'call refused'} <= {line['event'] for line in lines}
    for secret in (phone.token, *(value for name, value in metadata if name != 'x-time')):
        assert secret not in stream.getvalue()
