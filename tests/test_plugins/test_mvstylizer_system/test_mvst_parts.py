"""Tokens, enrolment, limits, pictures, settings, certificates, proxy, generated code."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mvst_world import picture

from mmext.plugins.mvstylizer.system import config as settings
from mmext.plugins.mvstylizer.system import images, limits, tokens
from mmext.plugins.mvstylizer.system.certificates import DevelopmentCA
from mmext.plugins.mvstylizer.system.player import colours
from mmext.plugins.mvstylizer.system.proxy import FaultProxy, Faults


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def token_world():
    clock = Clock()
    cloud, device = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    issuer = tokens.TokenIssuer(cloud, clock)
    verifier = tokens.TokenVerifier(tokens.public_bytes(cloud), clock)
    return clock, issuer, verifier, device


def test_tokens_expire_to_the_second_and_each_bit_counts():
    clock, issuer, verifier, device = token_world()
    token = issuer.issue('phone', 'phone', tokens.public_bytes(device), 60)
    assert verifier.verify(token).device == 'phone'
    clock.now += 59.9
    verifier.verify(token)
    clock.now += 0.1
    with pytest.raises(tokens.TokenError, match='expired'):
        verifier.verify(token)
    clock.now = 1000
    payload, signature = token.split('.')
    raw = bytearray(tokens.decode(payload))
    for index in range(0, len(raw), 17):
        changed = bytes(raw[:index]) + bytes([raw[index] ^ 1]) + bytes(raw[index + 1 :])
        with pytest.raises(tokens.TokenError):
            verifier.verify(f'{tokens.encode(changed)}.{signature}')
    for bad in ('', '.', 'a.b', token + 'x.y', 'é.é', 'A' * 5000):
        with pytest.raises(tokens.TokenError):
            verifier.verify(bad)


def test_a_call_is_good_once_and_for_a_while():
    clock, issuer, verifier, device = token_world()
    token = issuer.issue('phone', 'phone', tokens.public_bytes(device), 600)
    claims = verifier.verify(token)
    proofs = tokens.ProofVerifier(60, capacity=2, clock=clock)

    def call(nonce, at=None, audience='edge0/Stylize', signed_for=None):
        at = clock.now if at is None else at
        proof = tokens.sign_call(device, signed_for or audience, token, nonce, at)
        proofs.verify(claims, audience, token, nonce, repr(at), proof)

    call('n' * 16)
    with pytest.raises(tokens.TokenError, match='replayed'):
        call('n' * 16)
    for at in (clock.now - 61, clock.now + 61, float('nan')):
        with pytest.raises(tokens.TokenError, match='too old'):
            call('m' * 16, at)
    with pytest.raises(tokens.TokenError, match='wrong proof'):
        call('m' * 16, signed_for='edge1/Stylize')
    with pytest.raises(tokens.TokenError, match='malformed'):
        call('short')
    call('o' * 16)
    # Full: refuses rather than forgets.
    with pytest.raises(tokens.TokenError, match='too many'):
        call('p' * 16)
    clock.now += 121
    call('p' * 16)


def test_enrolment_codes(tmp_path):
    clock = Clock()
    codes = tokens.EnrolmentCodes(tmp_path / 'codes.json', clock)
    first, second = codes.create('phone', 'phone', 60), codes.create('edge0', 'edge', 60)
    assert codes.redeem(second) == ('edge0', 'edge')
    with pytest.raises(tokens.TokenError, match='used'):
        codes.redeem(second)
    clock.now += 60
    with pytest.raises(tokens.TokenError, match='expired'):
        codes.redeem(first)
    assert (tmp_path / 'codes.json').stat().st_mode & 0o077 == 0


def test_token_bucket_against_arithmetic():
    clock = Clock(0.0)
    bucket = limits.TokenBucket(2, 3, clock)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == pytest.approx(0.5)
    clock.now += 0.5
    assert bucket.take() == 0 and not bucket.full
    clock.now += 100
    assert bucket.full and [bucket.take() for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]


def test_quota_forgets_only_what_tells_nothing():
    clock = Clock(0.0)
    quota = limits.DeviceQuota(limits.Limits(keys_per_s=1, burst=2, sessions_per_device=1), clock)
    assert quota.enter('a') and not quota.enter('a') and quota.enter('b')
    assert [quota.take('a') for _ in range(3)][-1] == pytest.approx(1)
    quota.leave('a')
    # Coming back does not fill the bucket.
    assert quota.enter('a') and quota.take('a') > 0
    quota.leave('a')
    clock.now += 10
    quota.leave('b')
    assert quota.sessions == 0 and quota._buckets == {}


@pytest.mark.parametrize('field', ['queue', 'keys_per_s', 'max_side'])
def test_limits_must_be_positive(field):
    with pytest.raises(ValueError, match=field):
        limits.Limits(**{field: 0})
    with pytest.raises(ValueError, match='must exceed'):
        limits.Limits(max_message_bytes=10, max_image_bytes=10)


def test_pictures_come_back_as_they_were():
    frame = picture(31, 47)
    np.testing.assert_array_equal(
        images.decode(images.encode(frame, None), images.ImageLimits()), frame
    )
    lossy = images.decode(images.encode(frame, 95), images.ImageLimits())
    assert np.abs(lossy.astype(int) - frame).mean() < 4
    assert images.check(images.encode(frame), images.ImageLimits()) == (31, 47)
    grey = images.Image.fromarray(frame[..., 0])
    file = images.io.BytesIO()
    grey.save(file, 'PNG')
    assert images.decode(file.getvalue(), images.ImageLimits()).shape == (31, 47, 3)


def test_no_metadata_of_a_phone_survives():
    source = images.Image.fromarray(picture())
    exif = source.getexif()
    exif[0x010F] = 'SecretMaker'
    file = images.io.BytesIO()
    source.save(file, 'JPEG', exif=exif)
    assert b'SecretMaker' in file.getvalue()
    again = images.encode(images.decode(file.getvalue(), images.ImageLimits()), 95)
    assert b'SecretMaker' not in again


def test_a_bomb_costs_no_memory():
    """A header of 30 000 x 30 000 pixels is refused before 2.7 GB are asked for."""
    from test_mvst_edge import png_bomb

    began = time.perf_counter()
    with pytest.raises(images.ImageError) as error:
        images.decode(png_bomb(30_000, 30_000), images.ImageLimits(max_side=60_000))
    assert error.value.too_large and time.perf_counter() - began < 1


def test_global_colours_find_an_affine_map():
    frame = picture(60, 80)
    matrix = np.array([[0.6, 0.2, 0.0], [0.1, 0.7, 0.1], [0.0, 0.1, 0.5]])
    stylised = np.rint(frame @ matrix.T + [20, 10, 30]).clip(0, 255).astype(np.uint8)
    from mmext.plugins.mvstylizer import local_affine

    got = local_affine.apply(frame, colours(frame, stylised))
    assert np.abs(got.astype(int) - stylised).mean() < 1.5


CLOUD = """
name = "cloud"
address = "127.0.0.1:1"
certificate = "c.pem"
key = "c.key"
state = "state"
held_out = "held"
token_s = 60

[rounds]
min_edges = 3

[bounds]
max_ratio = 4
"""


def test_settings_are_read_and_checked(tmp_path):
    path = tmp_path / 'cloud.toml'
    path.write_text(CLOUD)
    loaded = settings.load(path, settings.CloudConfig)
    assert loaded.token_s == 60.0 and isinstance(loaded.token_s, float)
    assert loaded.state == tmp_path / 'state' and loaded.rounds.min_edges == 3
    assert loaded.bounds.max_ratio == 4 and loaded.rounds.every_s == 3600
    for change, complaint in (
        (CLOUD + 'typo = 1\n', 'unknown typo; there are max_examples'),
        (CLOUD.replace('name = "cloud"\n', ''), 'name missing'),
        (CLOUD.replace('min_edges = 3', 'min_edges = "3"'), 'min_edges=.3. must be a int'),
        (CLOUD.replace('min_edges = 3', 'min_edges = true'), 'must be a int'),
        (CLOUD.replace('max_ratio = 4', 'max_ratio = -4'), 'max_ratio=-4.0 must be positive'),
        ('name = ', 'cloud.toml'),
    ):
        path.write_text(change)
        with pytest.raises(ValueError, match=complaint):
            settings.load(path, settings.CloudConfig)


@pytest.mark.parametrize('name', ['cloud', 'edge', 'phone'])
def test_example_settings_are_valid(name, root):
    kind = getattr(settings, f'{name.title()}Config')
    loaded = settings.load(root / 'configs/mvstylizer/system' / f'{name}.toml', kind)
    assert loaded.log_level == 'INFO'


def test_certificates_name_their_hosts_and_keys_are_private(tmp_path):
    ca = DevelopmentCA(tmp_path)
    identity = ca.issue('edge0', ['edge0', '127.0.0.1'])
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    root = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
    certificate.verify_directly_issued_by(root)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ['edge0']
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert identity.key.stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match='hosts'):
        ca.issue('x', [])
    with pytest.raises(ValueError, match='days'):
        DevelopmentCA(tmp_path, days=0)


@pytest.fixture
def echo():
    """A server that sends back what it gets."""
    import threading

    listener = socket.create_server(('127.0.0.1', 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while data := connection.recv(65536):
                        connection.sendall(data)
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def exchange(port, data):
    """Send data, read as much back; seconds it took."""
    began = time.perf_counter()
    with socket.create_connection(('127.0.0.1', port), timeout=10) as connection:
        connection.sendall(data)
        got = b''
        while len(got) < len(data):
            part = connection.recv(65536)
            if not part:
                raise ConnectionResetError
            got += part
    assert got == data
    return time.perf_counter() - began


def test_the_proxy_does_what_it_says(echo):
    data = bytes(range(256)) * 100
    with FaultProxy('127.0.0.1', echo) as proxy:
        exchange(proxy.port, data)
        assert (proxy.up, proxy.down, proxy.connections) == (len(data), len(data), 1)
        proxy.faults.delay_s = 0.1
        assert 0.2 <= exchange(proxy.port, data) < 1.5
        proxy.faults = Faults(rate_bps=8 * len(data) / 0.3)
        assert 0.3 <= exchange(proxy.port, data) < 2
        proxy.faults = Faults(stall_probability=1, stall_s=0.1)
        assert exchange(proxy.port, data) >= 0.2
        proxy.faults = Faults(down=True)
        with pytest.raises(OSError):
            exchange(proxy.port, data)
        proxy.faults = Faults()
        with socket.create_connection(('127.0.0.1', proxy.port), timeout=5) as connection:
            connection.sendall(b'x')
            assert connection.recv(1) == b'x'
            assert proxy.reset() == 1
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_generated_code_is_current(tmp_path, root):
    pytest.importorskip('grpc_tools')
    folder = root / 'mmext/plugins/mvstylizer/system'
    command = [
        sys.executable, '-m', 'grpc_tools.protoc', f'-I{root}', f'--python_out={tmp_path}',
        f'--grpc_python_out={tmp_path}', f'--pyi_out={tmp_path}', str(folder / 'mvstylizer.proto'),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=100)
    for name in ('mvstylizer_pb2.py', 'mvstylizer_pb2.pyi', 'mvstylizer_pb2_grpc.py'):
        made = tmp_path / 'mmext/plugins/mvstylizer/system' / name
        assert made.read_text() == (folder / name).read_text(), f'{name}: generate it again'


def test_the_core_imports_none_of_it():
    code = (
        'import sys, mmext.registry, mmext.plugins.mvstylizer\n'
        "heavy = {'grpc', 'flwr', 'prometheus_client', 'cryptography', 'av'} & sys.modules.keys()\n"
        'assert not heavy, heavy\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=200)


def test_chunks_are_checked_as_a_whole():
    import asyncio

    from mmext.plugins.mvstylizer.system import chunks

    async def stream(parts):
        for part in parts:
            yield part

    def join(parts, limit=1 << 20):
        return asyncio.run(chunks.join(stream(parts), limit))

    data = bytes(range(256)) * 3000
    parts = list(chunks.split(data))
    assert len(parts) == 3 and join(parts) == data and join([]) is None
    assert join(list(chunks.split(b''))) == b''
    with pytest.raises(ValueError, match='SHA-256'):
        join(parts[:2])
    with pytest.raises(ValueError, match='more than'):
        join(parts, limit=len(data) - 1)
