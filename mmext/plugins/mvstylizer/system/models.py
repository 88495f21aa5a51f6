"""Versions of a model in a folder: written whole or not at all, one of them current."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

State = dict[str, torch.Tensor]


class ModelStore:
    """Numbered checkpoints and which of them is current.

    Version 0 is the model as built and has no file. Numbers rise and are never used twice; going
    back to an older version moves the pointer only. Several processes may change one folder.

    Args:
        folder (Path): Gets ``v<number>.pth`` (tensors only), ``current.json`` and a lock.
        keep (int): Newest versions kept by :meth:`prune`, at least 2. Default 5.

    Raises:
        ValueError: ``keep`` is below 2.
    """

    def __init__(self, folder: Path, keep: int = 5) -> None:
        if keep < 2:
            raise ValueError(f'keep={keep} must be at least 2: the current version and one back')
        self._folder = folder
        self._keep = keep
        self._lock = threading.RLock()
        self._depth = 0
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            # Nobody else writes now, so these are of a crash.
            for draft in folder.glob('*.tmp'):
                draft.unlink()

    @property
    def current(self) -> int:
        """Current version; 0: the model as built."""
        return self._pointer()['version']

    def versions(self) -> list[int]:
        """Versions that are here, ascending, without 0."""
        return sorted(int(path.stem[1:]) for path in self._folder.glob('v*.pth'))

    def has(self, version: int) -> bool:
        """Whether a version is here."""
        return version == 0 or self._path(version).exists()

    def publish(
        self,
        state: Mapping[str, torch.Tensor],
        note: dict[str, Any] | None = None,
        base: int | None = None,
    ) -> int:
        """Store a state as the next version and make it current.

        Args:
            state (dict): Names -> tensors.
            note (dict): Numbers and strings about it, stored beside it.
            base (int): Version that it was made from; None: the current one.

        Returns:
            int: Its version.

        Raises:
            ValueError: ``base`` is not current any more; nothing is stored.
        """
        file = io.BytesIO()
        torch.save({'state_dict': dict(state), 'note': note or {}}, file)
        with self._locked():
            current = self.current
            if base is not None and base != current:
                raise ValueError(f'the state is made from version {base}, current is {current}')
            version = self._last_number() + 1
            self.add(version, file.getvalue())
            self._point(version, parent=current)
        return version

    def add(self, version: int, data: bytes) -> None:
        """Store the bytes of a version.

        Raises:
            ValueError: They are no checkpoint, or ``version`` is not positive.
        """
        if version < 1:
            raise ValueError(f'version={version} must be positive')
        _parse(data)
        with self._locked():
            write_atomic(self._path(version), data)

    def select(self, version: int) -> None:
        """Make a version current.

        Raises:
            FileNotFoundError: It is not here.
        """
        with self._locked():
            if not self.has(version):
                raise FileNotFoundError(f'version {version} is not in {self._folder}')
            self._point(version)

    def rollback(self) -> int:
        """Make the version that the current one was made from current again and return it.

        Where that one is not here any more, it is the next one back that is.
        """
        with self._locked():
            parents = self._pointer()['parents']
            version = _parent(self.current, parents)
            while not self.has(version):
                version = _parent(version, parents)
            self._point(version)
        return version

    def data(self, version: int) -> tuple[bytes, str]:
        """Bytes of a version and their SHA-256 in hexadecimal.

        Raises:
            FileNotFoundError: It is not here.
        """
        data = self._path(version).read_bytes()
        return data, hashlib.sha256(data).hexdigest()

    def load(self, version: int) -> State:
        """State of a version.

        Raises:
            FileNotFoundError: It is not here.
        """
        return _parse(self._path(version).read_bytes())['state_dict']

    def note(self, version: int) -> dict[str, Any]:
        """What was noted about a version."""
        return _parse(self._path(version).read_bytes())['note']

    def prune(self) -> None:
        """Delete all but the newest versions, the current one and the one it was made from."""
        with self._locked():
            kept = {self.current, _parent(self.current, self._pointer()['parents'])}
            for version in self.versions()[: -self._keep]:
                if version not in kept:
                    self._path(version).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The operator's command and the running cloud are two processes.
        with self._lock:
            if self._depth:
                yield
                return
            with open(self._folder / 'lock', 'w') as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def _pointer(self) -> dict[str, Any]:
        path = self._folder / 'current.json'
        found = json.loads(path.read_text()) if path.exists() else {}
        return {'version': 0, 'last': 0, 'parents': {}, **found}

    def _point(self, version: int, parent: int | None = None) -> None:
        parents = self._pointer()['parents']
        if parent is not None and parent != version - 1:
            # Only what followed a rollback was not made from the number before it.
            parents[str(version)] = parent
        last = max(self._last_number(), version)
        text = json.dumps({'version': version, 'last': last, 'parents': parents})
        write_atomic(self._folder / 'current.json', text.encode())
        self.prune()

    def _path(self, version: int) -> Path:
        return self._folder / f'v{version:06d}.pth'

    def _last_number(self) -> int:
        return max([self._pointer()['last'], *self.versions()])


def _parent(version: int, parents: Mapping[str, int]) -> int:
    return parents.get(str(version), max(0, version - 1))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that after a crash the old or the new one is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'{path.name}.{os.getpid()}.{threading.get_ident()}.tmp')
    try:
        with open(draft, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers raise
        raise ValueError('these bytes are no checkpoint of tensors') from error
    if not isinstance(found, dict) or not isinstance(found.get('state_dict'), dict):
        raise ValueError('the checkpoint has no state_dict')
    return {'state_dict': found['state_dict'], 'note': found.get('note', {})}
