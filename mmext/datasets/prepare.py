"""Lay a data set out as the hosts' loaders read it, see :mod:`mmext.datasets.known_sets`."""

import gzip
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from mmext.datasets import catalog
from mmext.datasets.known_sets import DataSet

_ARCHIVES = ('.zip', '.tar', '.tar.gz', '.tgz')
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, shutil.ReadError, tarfile.TarError)


def prepare(
    name: str, root: str | Path = 'data', source: str | Path | None = None, url: str | None = None
) -> tuple[dict, bool]:
    """Lay a set out in ``<root>/<name>``, or find it there.

    The files come from ``source``; without it from the Debian package that ships them, if it is
    installed; else they are downloaded from the address where they are published. A set that is
    made of others is made. All is checked and written to a sibling folder, which takes its place at
    the end: the set is complete or untouched. Where it is there already, its sums are checked.

    Args:
        name: Name of the set.
        root: Folder of all sets.
        source: Folder that holds the set in our layout, or its published files, packed or not,
            itself or in a subfolder of the set's name; or one archive.
        url: Address of a folder with the published files, in place of the official one.

    Returns:
        The manifest, and whether anything was written.

    Raises:
        ValueError: Unknown name, a wrong sum, a broken archive, ``source`` or ``url`` does not fit
            the set, or ``<root>/<name>`` is there, but it is not the whole set.
        FileNotFoundError: The files are not in ``source``, cannot be downloaded, or the set is not
            published as files; or a set that this one is made of is missing.
    """
    entry = catalog.named(name)
    target = Path(root) / name
    if url is not None and (source is not None or not entry.downloads):
        raise ValueError(
            f'{name}: --url replaces the address of a download; '
            + ('leave out --from' if entry.downloads else 'this set has none')
        )
    if source is not None and entry.make:
        raise ValueError(f'{name} is made of {", ".join(entry.needs)}: leave out --from')
    if target.exists():
        return _adopt(name, target)
    with _draft(target) as draft:
        fresh = draft / name
        if entry.make:
            _make(entry, Path(root), fresh)
            origin = f'made of {", ".join(entry.needs)}' if entry.needs else 'made'
        elif source is not None:
            _take(name, Path(source).expanduser(), fresh, draft)
            origin = 'folder'
        elif url is None and entry.debian and Path(entry.debian).is_dir():
            _take(name, Path(entry.debian), fresh, draft)
            origin = f'Debian package at {entry.debian}'
        else:
            origin = _download(name, url, draft / 'download')
            _take(name, draft / 'download', fresh, draft)
        manifest = catalog.write_manifest(name, fresh, origin, catalog.check_sums(name, fresh))
        os.replace(fresh, target)
    return manifest, True


def _adopt(name: str, target: Path) -> tuple[dict, bool]:
    """Check a set that is there; one that was laid out by hand gets its manifest."""
    entry = catalog.named(name)
    lacking = catalog.lacks(entry, target)
    if lacking:
        raise ValueError(
            f'{target} is there, but lacks {lacking}: remove it and run {catalog.command(name)}'
        )
    try:
        found = catalog.check_sums(name, target)
        manifest = catalog.manifest(target)
        if manifest['sha256'] != found:
            raise ValueError(f'{target} was changed since its {catalog.MANIFEST} was written')
    except ValueError as error:
        raise ValueError(f'{error}; remove {target} and run {catalog.command(name)}') from error
    catalog.write_manifest(name, target, manifest['source'], found)
    return manifest, False


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside ``target`` that is gone afterwards, whatever happens."""
    draft = target.parent / f'.{target.name}.draft'
    # Left by a process that was killed.
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _make(entry: DataSet, root: Path, out: Path) -> None:
    for needed in entry.needs:
        if catalog.lacks(catalog.named(needed), root / needed):
            raise FileNotFoundError(catalog.missing(root / needed))
    module, _, function = entry.make.partition(':')
    getattr(import_module(module), function)(root, out)


def _take(name: str, source: Path, out: Path, draft: Path) -> None:
    """Copy the files of a set from a folder or an archive to ``out``."""
    entry = catalog.named(name)
    if source.is_file():
        if not source.name.endswith(_ARCHIVES):
            raise ValueError(
                f'{name}: {source} is no archive ({", ".join(_ARCHIVES)}): give its folder'
            )
        folders, archives, known = [], [source], []
    elif source.is_dir():
        folders = [source / place for place in (name, *entry.places)] + [source]
        known = [*entry.archives, *(file for file in entry.downloads if file.endswith(_ARCHIVES))]
        archives = [folder / archive for folder in (source, source / name) for archive in known]
    else:
        raise FileNotFoundError(f'{name}: {source} does not exist')
    if any(_copy(entry, folder, out) for folder in folders):
        return
    for archive in (path for path in archives if path.is_file()):
        unpacked = draft / 'unpacked'
        _unpack(archive, unpacked)
        # Archives wrap the files into folders of all kinds.
        inner = [unpacked, *(path for path in sorted(unpacked.rglob('*')) if path.is_dir())]
        if any(_copy(entry, folder, out) for folder in inner):
            return
        raise FileNotFoundError(
            f'{name}: {archive} does not hold {" and ".join(entry.layout)} in the numbers of '
            f'{entry.title}'
        )
    hint = f' and none of the archives {", ".join(known)}' if known else ''
    raise FileNotFoundError(
        f'{name}: neither {source} nor its folder {name} has the files '
        f'{", ".join(entry.layout)}{hint}'
    )


def _copy(entry: DataSet, folder: Path, out: Path) -> bool:
    """Copy a set to ``out`` if ``folder`` has every file of it; single files may be packed."""
    if not catalog.lacks(entry, folder):
        for _, _, files in catalog.parts(entry, folder):
            for file in files:
                target = out / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        return True
    packed = {file: folder / f'{file}.gz' for file in entry.layout}
    if not all(path.is_file() for path in packed.values()):
        return False
    out.mkdir(parents=True)
    for target_name, packed_file in packed.items():
        with (
            _whole(packed_file),
            gzip.open(packed_file) as read,
            (out / target_name).open('wb') as write,
        ):
            shutil.copyfileobj(read, write)
    return True


def _unpack(archive: Path, out: Path) -> None:
    # Of a tar file, links and absolute paths are refused; older Pythons have no filter.
    safe: dict[str, Any] = {}
    if archive.suffix != '.zip' and hasattr(tarfile, 'data_filter'):
        safe['filter'] = 'data'
    with _whole(archive):
        shutil.unpack_archive(archive, out, **safe)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise ValueError(f'{path.name} is broken or cut off ({error})') from error


def _download(name: str, url: str | None, out: Path) -> str:
    """Download the published files of a set; returns where they were found."""
    entry = catalog.named(name)
    addresses = (url.rstrip('/') + '/',) if url is not None else entry.addresses
    if not addresses:
        raise FileNotFoundError(
            f'{name} is not published at an address of its own: {catalog.command(name)} '
            f'--from FOLDER, which holds {" or ".join(entry.archives)} or its files'
        )
    from torch.hub import download_url_to_file

    out.mkdir()
    failures = []
    for address in addresses:
        try:
            for file, md5 in entry.downloads.items():
                sys.stderr.write(f'{name}: {urljoin(address, file)}\n')
                download_url_to_file(
                    urljoin(address, file), str(out / file), progress=sys.stderr.isatty()
                )
                found = catalog.file_sum(out / file, 'md5')
                if md5 and found != md5:
                    raise ValueError(
                        f'{name}: {urljoin(address, file)} has the md5 {found}, expected {md5}'
                    )
        # urllib's errors are OSErrors.
        except OSError as error:
            failures.append(f'{urljoin(address, file)} ({error})')
        else:
            return address
    raise FileNotFoundError(
        f'{name} cannot be downloaded: {"; ".join(failures)}. Give a mirror with --url, or the '
        'files with --from'
    )
