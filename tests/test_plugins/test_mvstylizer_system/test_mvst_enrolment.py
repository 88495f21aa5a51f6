"""Enrolment, renewed tokens and revocations between a cloud and its devices."""

import asyncio
import socket

import grpc
import pytest
from mvst_cloud import until

from mmext.plugins.mvstylizer.system import mvstylizer_pb2 as pb
from mmext.plugins.mvstylizer.system import mvstylizer_pb2_grpc as rpc
from mmext.plugins.mvstylizer.system.cloud_link import CloudLink
from mmext.plugins.mvstylizer.system.device import enroll, renew
from mmext.plugins.mvstylizer.system.link import Credentials
from mmext.plugins.mvstylizer.system.revocations import Revocations
from mmext.plugins.mvstylizer.system.tokens import (
    Ed25519PrivateKey,
    TokenError,
    encode,
    peek,
    public_bytes,
    save_key,
)


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
