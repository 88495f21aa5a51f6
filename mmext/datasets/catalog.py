"""The data sets that configs and studies read: where they lie and how to know them.

A set lies in ``<root>/<name>``, ``data/mnist`` say, as the hosts' loaders read it.
:data:`~mmext.datasets.known_sets.SETS` is all that is known of each;
:mod:`mmext.datasets.prepare` lays one out by it.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmext.datasets.known_sets import SETS, DataSet

#: Name of the file that says what lies in a folder.
MANIFEST = 'manifest.json'


def named(name: str) -> DataSet:
    """Return a row of the table.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in SETS:
        raise ValueError(f'the data set {name!r} is unknown; there are {", ".join(SETS)}')
    return SETS[name]


def command(name: str) -> str:
    """Return the command that prepares a set."""
    return f'mmext data {name}'


def parts(entry: DataSet, folder: Path) -> Iterator[tuple[str, int, list[Path]]]:
    """Yield each pattern of the layout, the wanted number of files, and the files there, sorted."""
    for pattern, count in entry.layout.items():
        yield pattern, count, sorted(path for path in folder.glob(pattern) if path.is_file())


def lacks(entry: DataSet, folder: Path) -> str:
    """Say what a folder lacks of a set; the empty string where it has every file."""
    if not folder.is_dir():
        return 'the folder'
    if not entry.layout:
        return '' if (folder / MANIFEST).is_file() else MANIFEST
    for pattern, count, there in parts(entry, folder):
        if len(there) != count:
            return pattern if count == 1 else f'{pattern} ({count:,} files, {len(there):,} there)'
    return ''


def check_sums(name: str, folder: Path) -> str:
    """Compare the files of a set with the sums that are known.

    Returns:
        The :func:`digest` of the files.

    Raises:
        ValueError: A sum is wrong; the message names the file.
    """
    entry = named(name)
    for file, md5 in entry.md5.items():
        found = file_sum(folder / file, 'md5')
        if found != md5:
            raise ValueError(f'{name}: {folder / file} has the md5 {found}, expected {md5}')
    found = digest(entry, folder)
    if entry.sha256 and found != entry.sha256:
        raise ValueError(
            f'{name}: the files in {folder} are not those of {entry.title}: their sha256 is '
            f'{found}, expected {entry.sha256}'
        )
    return found


def file_sum(path: Path, algorithm: str) -> str:
    """Return the ``'md5'`` or ``'sha256'`` of one file."""
    summed = hashlib.new(algorithm, usedforsecurity=False)
    with path.open('rb') as handle:
        while block := handle.read(1 << 20):
            summed.update(block)
    return summed.hexdigest()


def digest(entry: DataSet, folder: Path) -> str:
    """Return the sha256 over the relative names and contents of a set's files, sorted by name.

    Some 3 s for 60,000 small files.
    """
    summed = hashlib.sha256()
    for path in _files(entry, folder):
        line = f'{path.relative_to(folder).as_posix()} {file_sum(path, "sha256")}\n'
        summed.update(line.encode())
    return summed.hexdigest()


def write_manifest(
    name: str, folder: Path, source: str, sha256: str | None = None
) -> dict[str, Any]:
    """Write the :data:`MANIFEST` of a set; what its maker wrote into the file before is kept.

    Args:
        name: Name of the set.
        folder: Where it lies.
        source: Where the files come from, in words.
        sha256: The :func:`digest` of the files; None computes it.

    Returns:
        What was written: ``name``, ``title``, ``source``, the number of ``files``, their ``bytes``
        and their ``sha256``; no date and no path, so equal files have equal manifests.
    """
    found = digest(named(name), folder) if sha256 is None else sha256
    content = {**_read(folder), **_describe(name, folder), 'source': source, 'sha256': found}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + '\n')
    return content


def manifest(folder: str | Path) -> dict[str, Any]:
    """Return what the folder of a set holds, for the record of a result.

    Args:
        folder: ``data/mnist`` say. If the set was laid out by hand, the sum is computed, without a
            look at what it should be; ``mmext data`` compares and keeps it.

    Returns:
        As :func:`write_manifest`; with the keys of its maker for a set that was made.

    Raises:
        FileNotFoundError: The set has not been prepared; the message names the command.
        ValueError: The folder is not that of a known set, its manifest cannot be read, or files
            were added, removed or changed in size since it was written.
    """
    folder = Path(folder)
    entry = named(folder.name)
    lacking = lacks(entry, folder)
    if lacking:
        raise FileNotFoundError(missing(folder / lacking if folder.is_dir() else folder))
    there, said = _describe(folder.name, folder), _read(folder)
    if 'sha256' not in said:
        return {**said, **there, 'source': 'folder', 'sha256': digest(entry, folder)}
    if any(said.get(key) != there[key] for key in ('name', 'files', 'bytes')):
        raise ValueError(
            f'{folder} has {there["files"]:,} files of {there["bytes"]:,} bytes, its {MANIFEST} '
            f'speaks of {said.get("files")} of {said.get("bytes")}: remove the folder and run '
            f'{command(folder.name)}'
        )
    return said


def _describe(name: str, folder: Path) -> dict[str, Any]:
    entry = named(name)
    files = _files(entry, folder)
    size = sum(path.stat().st_size for path in files)
    return {'name': name, 'title': entry.title, 'files': len(files), 'bytes': size}


def _read(folder: Path) -> dict[str, Any]:
    """Content of a manifest; empty where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} is no manifest of a data set')
    return content


def folder_of(path: str | Path) -> Path | None:
    """Return the folder of a known set that ``path`` is or lies directly in, else None."""
    path = Path(path)
    return next((folder for folder in (path, path.parent) if folder.name in SETS), None)


def check_present(path: str | Path) -> None:
    """Raise if ``path`` belongs to a known set and is not there, or the set has lost a part.

    Quick: files are not counted.

    Raises:
        FileNotFoundError: The message names the command that prepares the set.
    """
    path = Path(path)
    folder = folder_of(path)
    if folder is None:
        return
    if not path.is_dir():
        raise FileNotFoundError(missing(path))
    # A folder in one that happens to bear the name of a set may be anything.
    for pattern in named(folder.name).layout if folder == path else ():
        if next(folder.glob(pattern), None) is None:
            raise FileNotFoundError(missing(folder / pattern))


def missing(path: str | Path) -> str:
    """Say that a file or folder is missing, with the command that prepares a known set."""
    # Of a file, any folder above may be that of the set.
    path = Path(path)
    folder = next((above for above in (path, *path.parents) if above.name in SETS), None)
    if folder is None:
        return f'{path} is missing: correct data_root'
    root = '' if folder.parent == Path('data') else f' --root {folder.parent}'
    return f'{path} is missing: {command(folder.name)}{root}'


def _files(entry: DataSet, folder: Path) -> list[Path]:
    """Files of a set, sorted by their relative names."""
    if entry.layout:
        found = {path for _, _, there in parts(entry, folder) for path in there}
    else:
        found = {
            path
            for path in folder.rglob('*')
            if path.is_file() and path.relative_to(folder).as_posix() != MANIFEST
        }
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
