"""Folders of a study's runs: of which settings they are, and which process has them."""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def forget_other(work_dir: Path, settings: str) -> None:
    """Remove what a run of other settings has left: neither resume nor report it.

    Where the checkout lies makes no difference.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    stamp = work_dir / 'settings.sha256'
    digest = hashlib.sha256(settings.replace(str(ROOT), '').encode()).hexdigest()
    if stamp.exists() and stamp.read_text() != digest:
        print(f'{work_dir} is of a run with other settings: again', flush=True)
        for path in work_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != 'lock':
                path.unlink()
    stamp.write_text(digest)


@contextlib.contextmanager
def taken(work_dir: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which ends with the process; yields whether it was free."""
    work_dir.mkdir(parents=True, exist_ok=True)
    with open(work_dir / 'lock', 'w') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
