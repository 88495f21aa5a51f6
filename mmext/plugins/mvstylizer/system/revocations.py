"""Revoked token ids on disk: the cloud's own list, and what an edge knows of it."""

import json
from collections.abc import Iterable
from pathlib import Path

from .models import write_atomic


class Revocations:
    """Revoked token ids in a file.

    Args:
        path (Path): JSON list.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def ids(self) -> list[str]:
        """All of them."""
        return json.loads(self._path.read_text()) if self._path.exists() else []

    def add(self, token_id: str) -> None:
        """Revoke a token."""
        self.replace({*self.ids(), token_id})

    def replace(self, ids: Iterable[str]) -> None:
        """Make these the list; nothing is written where it is the same."""
        wanted = sorted(set(ids))
        if wanted != self.ids():
            write_atomic(self._path, json.dumps(wanted).encode())
