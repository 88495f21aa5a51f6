"""Frames that phones let an edge keep for training: with consent, for a time, deletable."""

import hashlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..interfaces import Frame
from .images import encode
from .models import write_atomic

_NAME = re.compile(r'^(\d+)-[0-9a-f]{16}\.jpg$')


class Collection:
    """Kept frames of an edge, one folder for each device.

    Nothing but pixels is kept: pictures are encoded anew, so no metadata of a phone survives.
    Folder names are hashes of device names, and file names say when a frame came.

    Args:
        folder (Path): Where.
        ttl_s (float): Seconds a frame is kept, positive. Default one week.
        per_device (int): Newest frames kept of one device, at least 1. Default 500.
        every (int): One of so many keys is kept, at least 1. Default 1.
        clock (Callable): Unix time.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        folder: Path,
        ttl_s: float = 7 * 86400,
        per_device: int = 500,
        every: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if ttl_s <= 0 or per_device < 1 or every < 1:
            raise ValueError(
                f'ttl_s={ttl_s}, per_device={per_device} and every={every} must be positive'
            )
        self._folder = folder
        self._ttl = ttl_s
        self._per_device = per_device
        self._every = every
        self._clock = clock
        self._offered: dict[str, int] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        # What a crash left half written is pixels, too.
        for draft in folder.glob('*/*.tmp'):
            draft.unlink(missing_ok=True)

    def add(self, device: str, frame: Frame) -> bool:
        """Keep a frame of a consenting device; False: it was not its turn."""
        with self._lock:
            turn = self._offered.get(device, 0)
            self._offered[device] = turn + 1
            if turn % self._every:
                return False
            folder = self._of(device)
            # Milliseconds, so that the order of names is the order of arrival.
            name = f'{int(self._clock() * 1000):015d}-{secrets.token_hex(8)}.jpg'
            write_atomic(folder / name, encode(frame, 95))
            for path in sorted(folder.glob('*.jpg'))[: -self._per_device]:
                path.unlink(missing_ok=True)
        return True

    def delete(self, device: str) -> int:
        """Delete all frames of a device; return how many there were."""
        with self._lock:
            folder = self._of(device)
            count = len(list(folder.glob('*.jpg')))
            if folder.exists():
                shutil.rmtree(folder)
        return count

    def expire(self) -> int:
        """Delete frames whose time is over; return how many."""
        oldest = (self._clock() - self._ttl) * 1000
        gone = 0
        with self._lock:
            for path in self._folder.glob('*/*.jpg'):
                match = _NAME.match(path.name)
                if match is None or int(match[1]) <= oldest:
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone

    def paths(self) -> list[Path]:
        """Files of all frames whose time is not over, oldest first within a device."""
        oldest = (self._clock() - self._ttl) * 1000
        found = []
        for path in sorted(self._folder.glob('*/*.jpg')):
            match = _NAME.match(path.name)
            if match is not None and int(match[1]) > oldest:
                found.append(path)
        return found

    def _of(self, device: str) -> Path:
        return self._folder / hashlib.sha256(device.encode()).hexdigest()[:16]
