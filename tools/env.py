"""Create the environment that `make` runs in and print its interpreter.

All under the user's cache directory (or `$MMEXT_CACHE`):

- `deps-<stack>-<part>-<hash>`: virtual environments with the pinned dependencies, keyed by the
  requirement files, the stack, the build of torch and the Python version, shared by every checkout.
  They stand on each other: `demo` has torch, the stack and the data; `system` adds what the
  processes of MVStylizer need; `all` adds tests, linters and other authors' attacks; `docs` adds
  Sphinx. Whoever runs the demo first and the tests later has nothing twice;
- `run-<hash>`: a small one for each checkout that sees those and has mmext installed in editable
  form, so that two checkouts never disturb each other.

Needs Python 3.10-3.12 with venv and ensurepip, nothing else.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
STACKS = ('upstream', 'onedl')
#: Part of the environment -> requirement files that it adds to the part before; the first adds
#: `runtime` and the stack, too.
PARTS = {
    'demo': ('data',),
    'system': ('system', 'clips'),
    'all': ('deploy', 'comparators', 'completion', 'terngrad', 'tests'),
    'docs': ('docs',),
}
# Installed last and without dependencies: theirs contradict another file's.
NO_DEPS = 'nodeps'
# How an environment finds the packages of the one that it stands on.
BELOW = '_mmext_deps.pth'
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


def site_packages(env: Path) -> Path:
    """Folder of the packages of a virtual environment."""
    return next((env / 'lib').glob('python*')) / 'site-packages'


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


def stand_on(env: Path, below: Path) -> None:
    """Let `env` see the packages of the environment `below`."""
    library, shared = site_packages(env), site_packages(below)
    # addsitedir rather than a plain path: the .pth files over there count, too.
    (library / BELOW).write_text(f'import site; site.addsitedir({str(shared)!r})\n')


def refuse_cuda(env: Path, index: str) -> None:
    """End the program if the torch in `env` requires CUDA: another index has given it."""
    found = importlib.metadata.distributions(name='torch', path=[str(site_packages(env))])
    requires = [name for distribution in found for name in distribution.requires or ()]
    if any(name.startswith(('nvidia-', 'cuda-')) for name in requires):
        sys.exit(
            f'pip got a torch with CUDA although it was asked to look at {index}: check that this '
            'address can be reached, and name another one by make TORCH=cpu TORCH_INDEX=ADDRESS'
        )


def dependencies(stack: str, part: str = 'all', torch_index: str = '') -> Path:
    """Environment with the pinned dependencies of a stack.

    Args:
        stack: One of STACKS.
        part: One of PARTS; those before it are made as well and seen by it.
        torch_index: Package index that torch and torchvision are taken from, such as the one of
            PyTorch's CPU builds; empty: pip's usual index.
    """
    names = list(PARTS)
    position = names.index(part)
    below = dependencies(stack, names[position - 1], torch_index) if position else None
    files = [*PARTS[part]] if below else ['runtime', stack, *PARTS[part]]
    files = [REQUIREMENTS / f'{name}.txt' for name in files]
    no_deps = REQUIREMENTS / f'{NO_DEPS}.txt'
    constraints = REQUIREMENTS / 'constraints.txt'
    texts = [file.read_text() for file in [*files, no_deps, constraints]]
    base = below.name if below else f'{stack} {sys.version} {torch_index}'
    env = cache_dir() / f'deps-{stack}-{part}-{digest(base, *texts)}'

    def install(target: Path) -> None:
        say(f'mmext: installing into {target} (once, minutes)')
        create(target, with_pip=below is None)
        pip = [interpreter(target), '-m', 'pip', 'install', '--quiet', '-c', constraints]
        if below:
            stand_on(target, below)
        else:
            run(*pip, 'setuptools', 'wheel')
        if torch_index and not below:
            # By themselves, so that nothing else can come from that index.
            run(*pip, '--no-deps', '--index-url', torch_index, 'torch', 'torchvision')
            refuse_cuda(target, torch_index)
        requested = [item for file in files for item in ('-r', file)]
        # All of onedl but its mmengine is published as sources; mmcv would compile its ops.
        run(*pip, *requested, MMCV_WITH_OPS='0')
        if part == 'all':
            run(*pip, '--no-deps', '-r', no_deps)

    build(env, install)
    return env


def checkout(stack: str, part: str = 'all', torch_index: str = '') -> Path:
    """Environment of this checkout on top of :func:`dependencies`, whose arguments it takes."""
    deps = dependencies(stack, part, torch_index)
    texts = [(ROOT / name).read_text() for name in INSTALL]
    env = cache_dir() / f'run-{digest(str(ROOT), str(deps), *texts)}'

    def install(target: Path) -> None:
        create(target, with_pip=False)
        stand_on(target, deps)
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
    parser.add_argument('--for', dest='part', default='all', choices=PARTS, help='what to install')
    parser.add_argument('--torch', default='default', choices=('default', 'cpu'), help='its build')
    parser.add_argument('--torch-index', default='', help='package index of --torch cpu')
    parser.add_argument('--deps-only', action='store_true', help='print the shared layer instead')
    args = parser.parse_args()
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        sys.exit(f'mmext needs Python 3.10-3.12, this is {sys.version.split()[0]}')
    if args.torch == 'cpu' and not args.torch_index:
        parser.error('--torch cpu needs --torch-index, a package index with CPU builds of torch')
    wanted = args.stack, args.part, args.torch_index if args.torch == 'cpu' else ''
    env = dependencies(*wanted) if args.deps_only else checkout(*wanted)
    print(interpreter(env))


if __name__ == '__main__':
    main()
