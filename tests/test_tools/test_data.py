"""``mmext data``: every source of a set, every sum, and nothing half-written."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest

from mmext.commands.main import main
from mmext.datasets import catalog, prepare
from mmext.datasets.known_sets import SETS, DataSet

FILES = {'train-images': b'images' * 99, 'train-labels': b'labels'}
PHOTOS = {'train/cat/1.jpg': b'1', 'train/dog/1.jpg': b'2', 'test/cat/1.jpg': b'3'}


def md5(content):
    return hashlib.md5(content).hexdigest()


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(content):
    return gzip.compress(content, mtime=0)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two small sets in the table, and the command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('no_proxy', '*')
    digits = DataSet(
        'Digits', 'two packed files', 'ours',
        layout=dict.fromkeys(FILES, 1),
        md5={name: md5(content) for name, content in FILES.items()},
        addresses=('http://127.0.0.1:9/',),
        downloads={f'{name}.gz': md5(pack(content)) for name, content in FILES.items()},
        places=('Digits/raw',),
        debian=str(tmp_path / 'debian'),
    )  # fmt: skip
    photos = DataSet(
        'Photos', 'an archive', 'ours',
        layout={'train/*/*.jpg': 2, 'test/*/*.jpg': 1},
        archives=('photos.zip', 'photos.tgz'),
    )  # fmt: skip
    write(tmp_path / 'original', PHOTOS)
    photos = dataclasses.replace(photos, sha256=catalog.digest(photos, tmp_path / 'original'))
    monkeypatch.setitem(SETS, 'digits', digits)
    monkeypatch.setitem(SETS, 'photos', photos)
    return lambda argv: main(['data', *argv])


@pytest.fixture
def serve():
    """Serve folders; ``serve(folder, cut=True)`` sends half of each file."""
    servers = []

    def start(folder, cut=False):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def copyfile(self, source, outputfile):
                content = source.read()
                outputfile.write(content[: len(content) // 2] if cut else content)

        handler = functools.partial(Handler, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fails(data, capsys, *argv):
    """The one line of an error; nothing is left behind it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        data(list(argv))
    assert caught.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert not list(Path('data').glob('*')) if Path('data').exists() else True
    assert not list(Path('.').glob('**/.*.draft'))
    return line


@pytest.mark.parametrize('place', ['.', 'digits', 'Digits/raw'])
@pytest.mark.parametrize('packed', [False, True])
def test_a_folder_holds_the_files_packed_or_not(data, place, packed, capsys):
    files = {f'{n}.gz': pack(c) for n, c in FILES.items()} if packed else FILES
    write(Path('downloads') / place, files)
    data(['digits', '--from', 'downloads'])
    assert 'data/digits: Digits prepared, 2 files' in capsys.readouterr().out
    for name, content in FILES.items():
        assert (Path('data/digits') / name).read_bytes() == content
    manifest = catalog.manifest('data/digits')
    assert manifest['source'] == 'folder' and 'downloads' not in str(manifest)
    assert not list(Path('data').glob('.*'))


@pytest.mark.parametrize('kind, suffix', [('zip', 'zip'), ('gztar', 'tar.gz')])
@pytest.mark.parametrize('wrapped', ['', 'repository-main'])
def test_an_archive_holds_the_set_however_deep(data, kind, suffix, wrapped):
    write(Path('wrapped') / wrapped, {**PHOTOS, 'Thumbs.db': b'x', 'more/2.jpg': b'x'})
    made = Path(shutil.make_archive('packed', kind, 'wrapped'))
    Path('downloads').mkdir()
    name = 'photos.zip' if suffix == 'zip' else 'photos.tgz'
    made.rename(Path('downloads') / name)
    data(['photos', '--from', 'downloads'])
    data(['photos', '--from', f'downloads/{name}', '--root', 'elsewhere'])
    for root in ('data', 'elsewhere'):
        folder = Path(root) / 'photos'
        found = {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}
        assert found == {*PHOTOS, 'manifest.json'}
    assert catalog.manifest('data/photos') == catalog.manifest('elsewhere/photos')


def test_a_set_that_is_there_is_checked_and_left_alone(data, capsys):
    write(Path('data/photos'), PHOTOS)
    data(['photos'])
    manifest = Path('data/photos/manifest.json')
    before = manifest.read_bytes()
    capsys.readouterr()
    data(['photos', '--from', 'nowhere'])
    assert 'is there already, sums checked' in capsys.readouterr().out
    assert manifest.read_bytes() == before
    for change, message in (
        (lambda: Path('data/photos/train/cat/1.jpg').write_bytes(b'x'), 'are not those of Photos'),
        (lambda: Path('data/photos/train/cat/1.jpg').unlink(), r'lacks train/\*/\*.jpg \(2 files'),
    ):
        change()
        with pytest.raises(ValueError, match=f'{message}.*remove'):
            prepare.prepare('photos')
    assert Path('data/photos/test/cat/1.jpg').exists()


def test_the_debian_package_comes_before_a_download(data):
    write(Path('debian'), {f'{n}.gz': pack(c) for n, c in FILES.items()})
    data(['digits'])
    assert catalog.manifest('data/digits')['source'].startswith('Debian package')


def test_a_download_is_checked_unpacked_and_kept_with_its_address(data, serve):
    url = serve(write(Path('mirror/set'), {f'{n}.gz': pack(c) for n, c in FILES.items()}).parent)
    data(['digits', '--url', f'{url}/set'])
    assert (Path('data/digits') / 'train-images').read_bytes() == FILES['train-images']
    assert catalog.manifest('data/digits')['source'] == f'{url}/set/'


def test_the_next_address_is_tried(data, serve, monkeypatch):
    url = serve(write(Path('mirror'), {f'{n}.gz': pack(c) for n, c in FILES.items()})) + '/'
    entry = dataclasses.replace(SETS['digits'], addresses=('http://127.0.0.1:9/', url))
    monkeypatch.setitem(SETS, 'digits', entry)
    data(['digits'])
    assert catalog.manifest('data/digits')['source'] == url


def test_wrong_and_cut_off_downloads_leave_nothing(data, serve, capsys, monkeypatch):
    packed = {f'{n}.gz': pack(c) for n, c in FILES.items()}
    whole = write(Path('mirror'), packed)
    line = fails(data, capsys, 'digits', '--url', serve(whole, cut=True))
    assert 'train-images.gz has the md5' in line and md5(packed['train-images.gz']) in line
    write(whole, {'train-labels.gz': pack(b'other labels')})
    line = fails(data, capsys, 'digits', '--url', serve(whole))
    assert 'train-labels.gz has the md5' in line
    line = fails(data, capsys, 'digits', '--url', 'http://127.0.0.1:9')
    assert 'digits cannot be downloaded: http://127.0.0.1:9/train-images.gz' in line
    assert '--url' in line and '--from' in line
    # An archive whose own sum nobody knows.
    entry = dataclasses.replace(SETS['photos'], downloads={'photos.zip': ''}, archives=())
    monkeypatch.setitem(SETS, 'photos', entry)
    shutil.make_archive('mirror/photos', 'zip', 'original')
    line = fails(data, capsys, 'photos', '--url', serve(whole, cut=True))
    assert 'photos.zip is broken or cut off' in line


def test_wrong_files_of_a_folder_leave_nothing(data, capsys):
    write(Path('downloads/digits'), {**FILES, 'train-labels': b'other labels'})
    line = fails(data, capsys, 'digits', '--from', 'downloads')
    assert f'has the md5 {md5(b"other labels")}, expected {md5(FILES["train-labels"])}' in line
    write(Path('downloads/photos'), {**PHOTOS, 'test/cat/1.jpg': b'another photo'})
    assert 'are not those of Photos' in fails(data, capsys, 'photos', '--from', 'downloads')
    (Path('cut') / 'digits').mkdir(parents=True)
    for name, content in FILES.items():
        (Path('cut/digits') / f'{name}.gz').write_bytes(pack(content)[:-9])
    line = fails(data, capsys, 'digits', '--from', 'cut')
    assert 'train-images.gz is broken or cut off' in line


def test_an_interrupted_copy_leaves_nothing_and_a_killed_one_is_cleared(data, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    write(Path('data/.photos.draft'), {'photos/train/cat/1.jpg': b'of a killed run'})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, 'copyfile', interrupt)
        data(['photos', '--from', 'original'])
    assert not list(Path('data').iterdir())
    data(['photos', '--from', 'original'])
    assert catalog.lacks(SETS['photos'], Path('data/photos')) == ''


def test_mistakes_are_one_line(data, capsys):
    Path('empty').mkdir()
    Path('file.txt').touch()
    for argv, message in (
        (('unheard',), "'unheard' is unknown; there are mnist"),
        (('photos',), 'mmext data photos --from FOLDER, which holds photos.zip'),
        (('photos', '--from', 'nowhere'), 'nowhere does not exist'),
        (('photos', '--from', 'empty'), 'neither empty nor its folder photos has the files'),
        (('photos', '--from', 'file.txt'), 'file.txt is no archive'),
        (('photos', '--url', 'http://x'), 'this set has none'),
        (('digits', '--url', 'http://x', '--from', 'empty'), 'leave out --from'),
        ((), 'name a set, or give --list'),
    ):
        assert message in fails(data, capsys, *argv), argv


def test_a_set_is_made_of_others(data, monkeypatch, capsys):
    made = DataSet('Made', 'of photos', 'ours', make='made_sets:make', needs=('photos',))
    monkeypatch.setitem(SETS, 'made', made)
    Path('made_sets.py').write_text(
        'import json\n'
        'def make(root, out):\n'
        '    out.mkdir()\n'
        '    (out / "count.txt").write_text(str(len(list((root / "photos").rglob("*.jpg")))))\n'
        '    (out / "manifest.json").write_text(json.dumps({"seed": 3}))\n'
    )
    monkeypatch.syspath_prepend('.')
    line = fails(data, capsys, 'made')
    assert line == 'mmext data: error: data/photos is missing: mmext data photos'
    assert 'leave out --from' in fails(data, capsys, 'made', '--from', 'original')
    data(['photos', '--from', 'original'])
    data(['made'])
    assert Path('data/made/count.txt').read_text() == '3'
    manifest = catalog.manifest('data/made')
    assert manifest['seed'] == 3 and manifest['files'] == 1
    assert manifest['source'] == 'made of photos'
    data(['made'])
    assert 'is there already' in capsys.readouterr().out
    Path('data/made/count.txt').write_text('4')
    with pytest.raises(ValueError, match='data/made was changed since.*remove data/made and run'):
        prepare.prepare('made')


def test_the_list_says_what_is_prepared(data, capsys):
    write(Path('data/digits'), FILES)
    data(['photos', '--from', 'original'])
    capsys.readouterr()
    data(['--list'])
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert (lines['photos'], lines['digits'], lines['mnist']) == (
        'prepared', 'unchecked', 'missing',
    )  # fmt: skip
