"""Prepare the data sets that configs and studies read.

A set that is there is checked and left alone. Otherwise its files are taken from --from, or from
the Debian package that ships them, or downloaded from where they are published; sums are checked,
and nothing half-written is left. Some sets are made of others.

Examples:
  mmext data --list
  mmext data mnist fashion-mnist
  mmext data fod_a --from ~/downloads
"""

import argparse
import json
import sys
from pathlib import Path

from mmext.commands.options import user_errors
from mmext.datasets import catalog


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(catalog.SETS))
    parser.add_argument(
        '--from',
        dest='source',
        metavar='FOLDER',
        help='folder of the published files, packed or not, or one archive',
    )
    parser.add_argument(
        '--url', metavar='BASE', help='download from this folder in place of the official address'
    )
    parser.add_argument('--root', default='data', help='folder of all sets (default: data)')
    parser.add_argument('--list', action='store_true', help='show all sets, and stop')
    parser.add_argument('--json', action='store_true', help='with --list: as JSON')


def run(args: argparse.Namespace) -> None:
    """Prepare the named sets; exit with code 2 and one line where that cannot be done."""
    if args.list:
        sys.stdout.write(as_json(Path(args.root)) if args.json else table(Path(args.root)))
        return
    with user_errors('mmext data'):
        if not args.names:
            raise ValueError('name a set, or give --list')
        from mmext.datasets.prepare import prepare

        for name in args.names:
            catalog.named(name)
        for name in args.names:
            manifest, written = prepare(name, args.root, args.source, args.url)
            done = 'prepared' if written else 'is there already, sums checked'
            sys.stdout.write(
                f'{Path(args.root) / name}: {manifest["title"]} {done}, {manifest["files"]:,} '
                f'files, {manifest["bytes"] / 1e6:,.0f} MB\n'
            )


def table(root: Path) -> str:
    """Return all sets as lines: name, prepared below ``root`` or not, licence, what it is."""
    rows = [
        (
            name,
            _state(root / name),
            entry.licence,
            entry.summary,
        )
        for name, entry in catalog.SETS.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return '\n'.join(lines) + '\n'


def as_json(root: Path) -> str:
    """Return all sets as JSON: name -> state, licence and what it is."""
    sets = {
        name: {'state': _state(root / name), 'licence': entry.licence, 'summary': entry.summary}
        for name, entry in catalog.SETS.items()
    }
    return json.dumps(sets, indent=2) + '\n'


def _state(folder: Path) -> str:
    if (folder / catalog.MANIFEST).is_file():
        return 'prepared'
    return 'unchecked' if folder.is_dir() else 'missing'
