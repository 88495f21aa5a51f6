"""Ten papers as plugins of MMEngine, MMDetection and MMPretrain.

Exit codes: 0 done; 1 the work was done and something is wrong (a check failed, a run broke off);
2 a mistake in the command, its config or its files, told in one line.

Completion of commands, options and configs in bash and zsh, with the package argcomplete:
  eval "$(register-python-argcomplete mmext)"
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

#: Command -> what it does. Each is a module beside this one with ``add_arguments`` and ``run``.
COMMANDS = {
    'train': 'train a config, with plugins, on one or several ranks',
    'test': 'evaluate a checkpoint',
    'compare': 'train with and without plugins over several seeds, and compare',
    'attack': 'attack a classifier and tell its robust accuracy',
    'certify': 'certify a classifier by randomized smoothing',
    'decompose': 'replace the convolutions of a trained model by low-rank pairs',
    'stylize': 'give a video the colours of a style image',
    'sample': 'draw samples of a trained GAN',
    'data': 'prepare data sets',
    'zoo': 'list, verify and extend the trained networks',
    'config': 'print a config with its bases and plugins merged',
    'plugins': 'list the plugins and their papers',
    'doctor': 'report what is installed, and what is wrong with it',
    'new': 'start a new plugin in a checkout',
}


def build_parser(wanted: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of ``mmext``; only the wanted commands know their arguments."""
    from mmext.version import __version__

    parser = argparse.ArgumentParser(
        prog='mmext', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--version', action='version', version=f'mmext {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for name, told in COMMANDS.items():
        module = import_module(f'mmext.commands.{name}') if name in wanted else None
        command = commands.add_parser(
            name,
            help=told,
            description=module.__doc__ if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module is not None:
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: Words behind ``mmext``; default: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if '_ARGCOMPLETE' in os.environ:
        import argcomplete

        argcomplete.autocomplete(build_parser(os.environ['COMP_LINE'].split()))
    args = build_parser(argv[:1] or ['']).parse_args(argv or ['--help'])
    args.argv = argv
    return args.run(args) or 0


if __name__ == '__main__':
    sys.exit(main())
