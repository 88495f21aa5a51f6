"""Options that commands share, and the way they report mistakes.

Nothing here imports torch or MMEngine before it is needed, so that ``--help`` and completion are
quick.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from mmext import shipped


class CfgOptions(argparse.Action):
    """MMEngine's action of ``--cfg-options`` that reports a malformed pair instead of crashing."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the ``key=value`` pairs of ``values`` to the namespace."""
        for pair in values or ():
            key, equals, value = pair.partition('=')
            if not key or not equals:
                parser.error(f'{option_string}: expected key=value, got {pair!r}')
            # MMEngine's parser takes them for strings, or never ends.
            if re.search(r'\bdict\(|\{', value):
                parser.error(
                    f'{option_string}: {pair!r} gives a dict; give its keys one by one, '
                    f'{key}.name=value'
                )
        from mmengine.config import DictAction

        DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_config(parser: argparse.ArgumentParser, name: str = 'config', **settings) -> None:
    """Add the argument that names a config; completion offers files and shipped configs."""
    settings.setdefault('help', 'path, or package::path below the configs of a package')
    parser.add_argument(name, **settings).completer = complete_config  # type: ignore[attr-defined]


def complete_config(prefix: str, **_) -> list[str]:
    """Shipped configs for argcomplete; none before ``::``, where files are meant."""
    if '::' not in prefix:
        from argcomplete.completers import FilesCompleter

        return FilesCompleter(('py',))(prefix)
    with contextlib.suppress(FileNotFoundError):
        return [name for name in shipped.find_configs(prefix) if name.startswith(prefix)]
    return []


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``; a dict arrives, or None."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override keys of the config: a.b=1 c="[1,2]" d.0.e=x',
    )


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that treat the test images of a classifier one by one."""
    parser.add_argument('--skip', type=int, default=1, help='every how many images to take one')
    parser.add_argument('--max', type=int, help='at most so many images')
    parser.add_argument(
        '--bounds', type=float, nargs=2, default=(0, 255), help='range of the raw images'
    )
    parser.add_argument('--device', help='default: a GPU where there is one')
    parser.add_argument(
        '--json', action='store_true', help='print the summary as JSON, in place of the table'
    )
    add_cfg_options(parser)


def check_images(args: argparse.Namespace) -> None:
    """Raise ValueError where ``--skip`` or ``--max`` of :func:`add_images` is not positive."""
    if args.skip < 1 or (args.max is not None and args.max < 1):
        raise ValueError('--skip and --max must be at least 1')


def add_overlays(parser: argparse.ArgumentParser) -> None:
    """Add ``--with``; the names arrive as ``args.overlays``."""
    names = shipped.overlays()
    parser.add_argument(
        '--with',
        dest='overlays',
        nargs='+',
        default=[],
        metavar='PLUGIN',
        help=f'add plugins to the config: {", ".join(names)}; or a .py fragment of your own',
    ).completer = lambda **_: names  # type: ignore[attr-defined]


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument(
        '--work-dir', help='folder of logs and checkpoints (default: work_dirs/<config name>)'
    )
    add_cfg_options(parser)
    add_overlays(parser)
    add_ranks(parser)


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that several processes share, see :mod:`.ranks`."""
    parser.add_argument(
        '--ranks', type=int, metavar='N', help='start N processes by torchrun on this machine'
    )
    parser.add_argument(
        '--launcher', default='none', help='what has started the ranks: pytorch, slurm or mpi'
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


@contextlib.contextmanager
def user_errors(program: str, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn mistakes of the user inside the block into one line on stderr and exit code 2.

    These are ValueError, FileNotFoundError, and the TypeError of an argument that a class does not
    take.

    Args:
        program: Name that begins the line. Every rank writes it: torchrun ends all of them as soon
            as one has failed.
        unless: Errors are no mistakes of the user once it is true.
    """
    try:
        yield
    except (FileNotFoundError, ValueError, TypeError) as error:
        misspelt = 'unexpected keyword argument' in str(error)
        if unless() or (isinstance(error, TypeError) and not misspelt):
            raise
        sys.stderr.write(f'{program}: error: {error}\n')
        raise SystemExit(2) from error
