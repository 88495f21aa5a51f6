"""Create the environment that `make` runs in and print its interpreter.

Two layers, both under the user's cache directory (or `$MMEXT_CACHE`):

- `deps-<hash>`: a virtual environment with the pinned dependencies, keyed by the requirement files,
  the stack and the Python version, shared by every checkout (about 6 GB);
- `run-<hash>`: a small one for each checkout that sees the first and has mmext installed in
  editable form, so that two checkouts never disturb each other.

Needs Python 3.10-3.12 with venv and ensurepip, nothing else.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
STACKS = ('upstream', 'onedl')
EXTRAS = ('data', 'pretrained', 'deploy', 'video', 'system', 'fed', 'comparators', 'tests')
# Installed last and without dependencies: theirs contradict another file's.
NO_DEPS = 'nodeps'
# Files that decide what an editable install looks like.
INSTALL = ('setup.py', 'pyproject.toml', 'mmext/version.py', '_mmext_startup.py')


def digest(*parts: str) -> str:
    """Short hash of the parts."""
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def cache_dir() -> Path:
    """Directory of the environments."""
    base = os.environ.get('MMEXT_CACHE')
    if base:
        return Path(base)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmext'


def interpreter(env: Path) -> Path:
    """Python of a virtual environment."""
    return env / 'bin' / 'python'


def say(message: str) -> None:
    """Progress goes to stderr: stdout holds only the interpreter's path."""
    print(message, file=sys.stderr, flush=True)


def run(*command: object, **environment: str) -> None:
    """Run a command, its output on stderr; a failure ends the program."""
    result = subprocess.run(
        [str(part) for part in command], stdout=sys.stderr, env={**os.environ, **environment}
    )
    if result.returncode:
        sys.exit(f'failed: {" ".join(str(part) for part in command)}')


def create(env: Path, with_pip: bool) -> None:
    """Make an empty virtual environment.

    Raises:
        SystemExit: Python came without what that takes, as Debian's does; the message names the
            package.
    """
    missing = [name for name in ('venv', 'ensurepip') if importlib.util.find_spec(name) is None]
    if not missing:
        import venv

        try:
            venv.create(env, with_pip=with_pip)
            return
        except subprocess.CalledProcessError as error:  # ensurepip without its wheels
            missing = [f'a working ensurepip ({error})']
    version = '.'.join(str(part) for part in sys.version_info[:2])
    sys.exit(
        f'{sys.executable} has no {" and no ".join(missing)}, so it cannot make a virtual '
        f'environment; on Debian and Ubuntu: apt-get install python{version}-venv; elsewhere name '
        'another Python: make PYTHON=/path/to/python'
    )


@contextlib.contextmanager
def locked(path: Path):
    """Hold an exclusive lock: two `make` at once must not build one environment twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w') as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(env: Path, install) -> None:
    """Create `env` unless a finished one is there; an interrupted one is started again."""
    ready = env / '.ready'
    if ready.exists():
        return
    with locked(env.with_suffix('.lock')):
        if ready.exists():
            return
        shutil.rmtree(env, ignore_errors=True)
        install(env)
        ready.touch()


def dependencies(stack: str) -> Path:
    """Environment with the pinned dependencies of a stack."""
    names = ('runtime', stack, *EXTRAS)
    files = [REQUIREMENTS / f'{name}.txt' for name in names]
    no_deps = REQUIREMENTS / f'{NO_DEPS}.txt'
    constraints = REQUIREMENTS / 'constraints.txt'
    texts = [file.read_text() for file in [*files, no_deps, constraints]]
    env = cache_dir() / f'deps-{stack}-{digest(sys.version, *texts)}'

    def install(target: Path) -> None:
        say(f'mmext: installing the {stack} stack into {target} (once, a few minutes)')
        create(target, with_pip=True)
        pip = [interpreter(target), '-m', 'pip', 'install', '--quiet', '-c', constraints]
        run(*pip, 'setuptools', 'wheel')
        requested = [part for file in files for part in ('-r', file)]
        # All of onedl but its mmengine is published as sources; mmcv would compile its ops.
        run(*pip, *requested, MMCV_WITH_OPS='0')
        run(*pip, '--no-deps', '-r', no_deps)

    build(env, install)
    return env


def checkout(stack: str) -> Path:
    """Environment of this checkout on top of :func:`dependencies`."""
    deps = dependencies(stack)
    texts = [(ROOT / name).read_text() for name in INSTALL]
    env = cache_dir() / f'run-{digest(str(ROOT), str(deps), *texts)}'

    def install(target: Path) -> None:
        create(target, with_pip=False)
        library = next((target / 'lib').glob('python*')) / 'site-packages'
        shared = next((deps / 'lib').glob('python*')) / 'site-packages'
        # addsitedir rather than a plain path: the shared layer's own .pth files count, too.
        (library / '_mmext_deps.pth').write_text(f'import site; site.addsitedir({str(shared)!r})\n')
        run(
            interpreter(target), '-m', 'pip', 'install', '--quiet', '--no-deps',
            '--no-build-isolation', '--disable-pip-version-check', '-e', ROOT,
        )  # fmt: skip

    build(env, install)
    return env


def main() -> None:
    """Build what is missing and print the interpreter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stack', default='upstream', choices=STACKS)
    parser.add_argument('--deps-only', action='store_true', help='print the shared layer instead')
    args = parser.parse_args()
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        sys.exit(f'mmext needs Python 3.10-3.12, this is {sys.version.split()[0]}')
    env = dependencies(args.stack) if args.deps_only else checkout(args.stack)
    print(interpreter(env))


if __name__ == '__main__':
    main()
