"""The table of data sets: what a folder lacks, its sum, its manifest."""

import dataclasses
import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmext.datasets import catalog
from mmext.datasets.known_sets import SETS, DataSet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A set of three files, prepared by hand."""
    entry = DataSet('Tiny', 'three files', 'ours', layout={'a/*.txt': 2, 'b': 1})
    monkeypatch.setitem(SETS, 'tiny', entry)
    folder = tmp_path / 'tiny'
    (folder / 'a').mkdir(parents=True)
    for name, text in (('a/2.txt', 'two'), ('a/1.txt', 'one'), ('b', 'three'), ('other', 'x')):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize('name', SETS)
def test_the_table_is_sound(name):
    entry = SETS[name]
    assert entry.title and entry.summary and entry.licence
    for needed in entry.needs:
        assert needed in SETS
    if entry.make:
        module, _, function = entry.make.partition(':')
        assert callable(getattr(importlib.import_module(module), function))
        assert not entry.addresses
        return
    # Every file is covered by a sum of its authors, or all of them by ours.
    assert bool(entry.sha256) != (len(entry.md5) == sum(entry.layout.values()))
    assert all(len(md5) == 32 for md5 in entry.md5.values())
    assert not entry.sha256 or len(entry.sha256) == 64
    assert bool(entry.addresses) == bool(entry.downloads)
    assert entry.addresses or entry.archives
    assert all(address.endswith('/') for address in entry.addresses)


def test_sums_of_downloads_are_those_of_torchvision():
    from torchvision import datasets

    for name, published in (
        ('mnist', datasets.MNIST.resources),
        ('fashion-mnist', datasets.FashionMNIST.resources),
        ('cifar10', [(datasets.CIFAR10.filename, datasets.CIFAR10.tgz_md5)]),
    ):
        assert dict(SETS[name].downloads) == dict(published)
    parts = [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list]
    inner = {f'cifar-10-batches-py/{file}': md5 for file, md5 in parts}
    assert inner.items() <= SETS['cifar10'].md5.items()


def test_what_is_lacking_is_named(tiny):
    entry = SETS['tiny']
    assert catalog.lacks(entry, tiny) == ''
    (tiny / 'a/1.txt').unlink()
    assert catalog.lacks(entry, tiny) == 'a/*.txt (2 files, 1 there)'
    (tiny / 'a/1.txt').touch()
    (tiny / 'b').unlink()
    assert catalog.lacks(entry, tiny) == 'b'
    assert catalog.lacks(entry, tiny / 'no') == 'the folder'


def test_the_sum_is_over_sorted_names_and_contents(tiny):
    wanted = hashlib.sha256()
    for name, text in (('a/1.txt', b'one'), ('a/2.txt', b'two'), ('b', b'three')):
        wanted.update(f'{name} {hashlib.sha256(text).hexdigest()}\n'.encode())
    assert catalog.digest(SETS['tiny'], tiny) == wanted.hexdigest()
    (tiny / 'other').write_text('is no part of it')
    assert catalog.digest(SETS['tiny'], tiny) == wanted.hexdigest()
    (tiny / 'b').write_text('eerht')
    assert catalog.digest(SETS['tiny'], tiny) != wanted.hexdigest()


def test_known_sums_are_compared(tiny, monkeypatch):
    assert catalog.check_sums('tiny', tiny) == catalog.digest(SETS['tiny'], tiny)
    entry, right = SETS['tiny'], hashlib.md5(b'three').hexdigest()
    for changes, message in (
        ({'md5': {'b': right}}, None),
        ({'md5': {'b': right[::-1]}}, f'tiny/b has the md5 {right}'),
        ({'sha256': '0' * 64}, 'are not those of Tiny'),
    ):
        monkeypatch.setitem(SETS, 'tiny', dataclasses.replace(entry, **changes))
        if message is None:
            catalog.check_sums('tiny', tiny)
        else:
            with pytest.raises(ValueError, match=message):
                catalog.check_sums('tiny', tiny)


def test_a_manifest_is_read_computed_and_checked(tiny):
    computed = catalog.manifest(tiny)
    assert not (tiny / catalog.MANIFEST).exists()
    assert computed['sha256'] == catalog.digest(SETS['tiny'], tiny)
    assert (computed['files'], computed['bytes']) == (3, 11)
    # What its maker has written is kept.
    (tiny / catalog.MANIFEST).write_text(json.dumps({'settings': {'seed': 1}}))
    written = catalog.write_manifest('tiny', tiny, 'folder')
    assert written == {'settings': {'seed': 1}, **computed}
    assert catalog.manifest(str(tiny)) == written
    (tiny / 'b').write_text('more than three')
    with pytest.raises(ValueError, match=r'has 3 files of 21 bytes.*speaks of 3 of 11'):
        catalog.manifest(tiny)
    (tiny / catalog.MANIFEST).write_text('{"name"')
    with pytest.raises(ValueError, match='cannot be read'):
        catalog.manifest(tiny)
    (tiny / 'b').unlink()
    with pytest.raises(FileNotFoundError, match=r'tiny/b is missing: mmext data tiny'):
        catalog.manifest(tiny)
    with pytest.raises(ValueError, match="'unheard' is unknown; there are mnist, "):
        catalog.manifest(tiny.parent / 'unheard')


def test_a_missing_set_is_named_with_its_command(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    for path, message in (
        ('data/mnist', 'data/mnist is missing: mmext data mnist'),
        ('data/mnist/', 'data/mnist is missing: mmext data mnist'),
        ('data/bsds500/images', 'data/bsds500/images is missing: mmext data bsds500'),
        ('/x/fod_a', '/x/fod_a is missing: mmext data fod_a --root /x'),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            catalog.check_present(path)
        assert str(caught.value) == message
    catalog.check_present('tiny')
    catalog.check_present('data/coco')
    # A folder within one that happens to be called so.
    Path('mnist/project').mkdir(parents=True)
    catalog.check_present('mnist/project')
    catalog.check_present('mnist/project/data/coco')
    Path('tiny/b').unlink()
    with pytest.raises(FileNotFoundError, match='^tiny/b is missing'):
        catalog.check_present('tiny')


def test_the_table_is_read_without_torch():
    code = (
        'import sys\nfrom mmext.commands.main import main\nmain(["data", "--list"])\n'
        'assert "torch" not in sys.modules'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in SETS)
