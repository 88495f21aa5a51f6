"""Results on disk, one JSON object a line, so that a killed evaluation goes on where it stopped."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Records:
    """A file of records that belong to one setting.

    The first line is the setting; each :meth:`append` is one write that reaches the disk. A line
    that a kill cut off is dropped when the file is opened again.

    Args:
        path: File, made with its folder where it does not exist.
        settings: All that the records depend on.

    Raises:
        ValueError: The file holds records of other settings; the message names the difference.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.rows: list[dict] = []
        # Through JSON, as the file goes: tuples are lists there.
        settings = json.loads(json.dumps(settings))
        lines = self._whole_lines()
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write([settings])
            return
        old, self.rows = lines[0], lines[1:]
        other = [key for key in {**old, **settings} if old.get(key) != settings.get(key)]
        if other:
            told = ', '.join(f'{k}: {old.get(k)} there, {settings.get(k)} here' for k in other)
            raise ValueError(
                f'{path} holds records of other settings ({told}); choose another folder or '
                'delete it'
            )

    def append(self, rows: Sequence[dict]) -> None:
        """Add records and wait until they are on the disk."""
        self._write(rows)
        self.rows += rows

    def _whole_lines(self) -> list[dict]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        end = content.rfind(b'\n') + 1
        if end < len(content):
            os.truncate(self.path, end)
        return [json.loads(line) for line in content[:end].splitlines()]

    def _write(self, rows: Sequence[dict]) -> None:
        with open(self.path, 'ab') as file:
            file.write(''.join(json.dumps(row) + '\n' for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())


def sha256(path: str) -> str:
    """Hash of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
