"""Folders of runs: of which settings they are, which process has them, and files written whole."""

import ast
import contextlib
import fcntl
import hashlib
import inspect
import json
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def digest_of(settings: str) -> str:
    """Hash of settings; where the checkout lies makes no difference."""
    return hashlib.sha256(settings.replace(str(ROOT), '').encode()).hexdigest()


def forget_other(work_dir: Path, settings: str) -> None:
    """Remove what a run of other settings has left: neither resume nor report it."""
    work_dir.mkdir(parents=True, exist_ok=True)
    stamp = work_dir / 'settings.sha256'
    digest = digest_of(settings)
    if stamp.exists() and stamp.read_text() != digest:
        print(f'{work_dir} is of a run with other settings: again', flush=True)
        for path in work_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ('lock', 'log.txt'):
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


def write_json(path: Path, value: object, indent: int | None = None) -> None:
    """Write a file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    draft.write_text(json.dumps(value, indent=indent) + '\n')
    os.replace(draft, path)


def hash_of_sources(parts: Iterable[Path | Callable]) -> str:
    """Hash of what code does: comments, docstrings and layout change nothing.

    Args:
        parts: Files, folders whose ``*.py`` count, and functions. A config counts with its bases.
    """
    digest = hashlib.sha256()
    waiting = list(parts)
    for part in waiting:
        if not isinstance(part, Path):
            texts = [textwrap.dedent(inspect.getsource(part))]
        elif part.is_dir():
            texts = [path.read_text() for path in sorted(part.rglob('*.py'))]
        else:
            texts = [part.read_text()]
        for tree in map(ast.parse, texts):
            for node in ast.walk(tree):
                body = getattr(node, 'body', None)
                if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                    text = body[0].value
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        text.value = ''
            digest.update(ast.dump(tree).encode())
            for node in tree.body if isinstance(part, Path) else ():
                if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
                    bases = ast.literal_eval(node.value)
                    bases = [bases] if isinstance(bases, str) else bases
                    # Those of a host, as 'mmdet::...', are its version.
                    waiting += [part.parent / base for base in bases if '::' not in base]
    return digest.hexdigest()
