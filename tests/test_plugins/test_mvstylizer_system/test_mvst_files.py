"""The phone's whole way: settings, enrolled state, a real clip in, a file and a report out."""

import json
import re
import subprocess
import sys

import pytest
from mvst_world import picture

pytest.importorskip('av')
pytest.importorskip('flwr')

import av  # noqa: E402

from mmext.datasets.clips import clip_path  # noqa: E402
from mmext.plugins.mvstylizer.system import device, phone_main  # noqa: E402
from mmext.plugins.mvstylizer.system.collection import Collection  # noqa: E402
from mmext.plugins.mvstylizer.system.images import encode  # noqa: E402
from mmext.plugins.mvstylizer.system.tokens import save_key  # noqa: E402

FRAMES = 10


@pytest.fixture
def phone(world, tmp_path):
    """An edge, an enrolled phone and its settings; a style."""
    edge = world.edge(collection=Collection(tmp_path / 'frames'))
    credentials = world.credentials('phone')
    save_key(credentials.key, tmp_path / 'phone' / 'device.key')
    device.save_token(tmp_path / 'phone', credentials.token)
    (tmp_path / 'style.png').write_bytes(encode(picture(), None))
    (tmp_path / 'phone.toml').write_text(
        f"""
        state = "phone"
        ca = "{world.ca.certificate}"
        consent = true
        edges = [{{ name = "edge0", address = "{edge.address}" }}]
        cloud = {{ name = "cloud", address = "127.0.0.1:1" }}
        log_level = "ERROR"
        policy = {{ type = "mmext.FixedInterval", interval = 4 }}
        play = {{ latency_s = 20, lookahead = 8, upload_side = 96 }}
        """
    )
    edge.folder = tmp_path
    return edge


def clip(name):
    try:
        return clip_path(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def times(path, count=None):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        pts = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
    return rate, [round(value, 4) for value in pts[:count]]


@pytest.mark.parametrize('name', ['carphone', 'bunny'])
def test_a_clip_keeps_its_frames_times_and_sound(phone, name):
    source, output = clip(name), phone.folder / 'out.mp4'
    report = phone_main.stylize_file(
        phone.folder / 'phone.toml', source, phone.folder / 'style.png', output, FRAMES
    )
    assert times(output) == times(source, FRAMES)
    assert report['frames'] == FRAMES == sum(report['ways'].values())
    assert report['ways']['key'] == 3 and report['ways']['bidirectional'] == 6
    assert report['ways']['causal affine'] == 1 and report['faults'] == {}
    assert report['bytes']['up'] > 0 and report['latency_ms']['p95'] > 0
    if name == 'bunny':
        with av.open(str(output)) as made, av.open(str(source)) as original:
            got = [bytes(packet) for packet in made.demux(made.streams.audio[0]) if packet.size]
            want = [bytes(p) for p in original.demux(original.streams.audio[0]) if p.size]
        assert got and got == want[: len(got)]
    deleted = phone_main.delete_collected(phone.folder / 'phone.toml')
    assert deleted == {'edge0': 3}


def test_a_phone_never_overwrites_its_source(phone):
    source = phone.folder / 'mine.mp4'
    source.write_bytes(clip('carphone').read_bytes())
    before = source.read_bytes()
    with pytest.raises(ValueError, match='is the source itself'):
        phone_main.stylize_file(
            phone.folder / 'phone.toml', source, phone.folder / 'style.png', source, FRAMES
        )
    assert source.read_bytes() == before


def test_a_phone_renews_its_token_while_it_runs(phone, world):
    """One that ends soon; the id of the enrolment stays."""
    from mvst_cloud import Cloudy

    Cloudy.up(world)
    settings = phone.folder / 'phone.toml'
    settings.write_text(
        settings.read_text().replace('127.0.0.1:1"', f'127.0.0.1:{world.cloud.port}"')
    )
    file = phone.folder / 'phone' / 'token'
    old = world.tokens.verify(file.read_text())
    try:
        arguments = (clip('carphone'), phone.folder / 'style.png', phone.folder / 'out.mp4', FRAMES)
        report = phone_main.stylize_file(settings, *arguments)
        new = world.tokens.verify(file.read_text())
        assert new.expires > old.expires + 3600 and (new.id, new.key) == (old.id, old.key)
        again = file.read_text()
        phone_main.stylize_file(settings, *arguments)
        assert file.read_text() == again
    finally:
        Cloudy.down(world)
    assert report['faults'] == {}


def test_a_phone_that_is_not_enrolled_is_told_how(phone):
    (phone.folder / 'phone' / 'token').unlink()
    with pytest.raises(FileNotFoundError, match='--enroll CODE'):
        phone_main.stylize_file(phone.folder / 'phone.toml', *[phone.folder / 'x'] * 3)


def test_help_needs_no_heavy_package(root):
    for name in ('phone', 'edge', 'cloud'):
        command = [sys.executable, '-m', f'mmext.plugins.mvstylizer.{name}', '--help']
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=root)
        assert '--config' in done.stdout, done.stderr


@pytest.mark.slow
def test_the_demo_on_real_processes(root, tmp_path):
    command = [
        sys.executable, str(root / 'projects/mvstylizer/system_demo.py'), '--max-frames', '100',
        '--work-dir', str(tmp_path / 'demo'),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert '100 frames in' in done.stdout
    # Rounds before the first frames have no updates.
    assert re.search(r'federated round \d+: ', done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize('study', ['system.py', 'system_federated.py'])
def test_the_studies_run(root, tmp_path, study):
    command = [sys.executable, str(root / 'projects/mvstylizer' / study), '--quick']
    if study == 'system.py':
        command += ['--work-dir', str(tmp_path / 'study')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])
