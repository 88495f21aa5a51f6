"""List, verify and extend the trained networks of the repository.

Examples:
  mmext zoo list
  mmext zoo list --untrained
  mmext zoo verify
  mmext zoo verify resnet20_cifar10-jpeg --weights-only
  mmext zoo publish configs/plain/lenet_mnist.py work_dirs/lenet_mnist
"""

import argparse
import json
import sys
import tempfile

from mmext.commands.options import user_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(dest='action', required=True)
    listing = actions.add_parser('list', help='networks, data sets, metrics, sizes')
    listing.add_argument(
        '--untrained', action='store_true', help='name the configs that nobody has trained here'
    )
    verify = actions.add_parser('verify', help='load the networks and measure their metrics again')
    verify.add_argument('names', nargs='*', metavar='NAME', help='stems of configs; default: all')
    verify.add_argument('--weights-only', action='store_true', help='load them, measure nothing')
    publish = actions.add_parser('publish', help='put a trained network into zoo/')
    publish.add_argument('config', help='its config, which a metafile names')
    publish.add_argument('work_dir', help='work dir of its training')
    publish.add_argument('--command', help='what trained it; default: mmext train CONFIG')
    for action in (listing, verify):
        action.add_argument('--json', action='store_true', help='as JSON')


def run(args: argparse.Namespace) -> int:
    """Do it; exit code 1 if a network is not as stated, 2 on mistakes in the command line."""
    from mmext import zoo

    with user_errors('mmext zoo'):
        if args.action == 'publish':
            command = args.command or f'mmext train {args.config}'
            show([(zoo.publish(args.config, args.work_dir, command), 'published')])
            return 0
        if args.action == 'list':
            results = [(entry, '') for entry in zoo.entries()]
        else:
            chosen = [zoo.find(name) for name in args.names] or zoo.entries()
            results = [(entry, check(entry, args.weights_only)) for entry in chosen]
    wrong = [(entry, found) for entry, found in results if found not in ('', 'ok', 'loads')]
    if args.json:
        sys.stdout.write(json.dumps([as_dict(*result) for result in results], indent=2) + '\n')
        return int(bool(wrong))
    show([(entry, 'wrong' if (entry, found) in wrong else found) for entry, found in results])
    for entry, found in wrong:
        sys.stdout.write(f'{entry.name}: {found}\n')
    if args.action == 'list':
        names = zoo.untrained()
        sys.stdout.write(f'{len(names)} configs of the metafiles are untrained here\n')
        sys.stdout.write(''.join(f'  {name}\n' for name in names if args.untrained))
    return int(bool(wrong))


def as_dict(entry, found: str) -> dict:
    """A network and what was found, for JSON."""
    told = {'name': entry.name, 'config': str(entry.config), 'weights': str(entry.weights),
            'sha256': entry.sha256, 'dataset': entry.dataset, 'metrics': entry.metrics}  # fmt: skip
    return {**told, 'found': found} if found else told


def check(entry, weights_only: bool) -> str:
    """Return 'ok', 'loads' where no metric is compared, or what is wrong."""
    from mmext import zoo

    try:
        zoo.build(entry)
        if weights_only or not entry.metrics:
            return 'loads'
        with tempfile.TemporaryDirectory() as work_dir:
            found = zoo.evaluate(entry, work_dir)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    wrong = {
        name: found.get(name)
        for name, value in entry.metrics.items()
        if name not in found or abs(found[name] - value) > zoo.TOLERANCE
    }
    return f'measured {wrong}' if wrong else 'ok'


def show(rows) -> None:
    """Write a table of networks and of what was found."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column('network', no_wrap=True)
    for title in ('data', 'metric', 'KB', 'found'):
        table.add_column(title, justify='right' if title == 'KB' else 'left', overflow='fold')
    for entry, result in rows:
        size = f'{entry.weights.stat().st_size / 1000:,.0f}' if entry.weights.exists() else '-'
        metrics = ', '.join(f'{name} {value:g}' for name, value in entry.metrics.items())
        table.add_row(entry.name, entry.dataset, metrics, size, result)
    console = Console()
    # Names stay whole, for copying.
    console.width = max(console.width, 100)
    console.print(table)
