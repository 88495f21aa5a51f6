"""List, verify and extend the trained networks of the repository.

Examples:
    python tools/zoo.py list
    python tools/zoo.py list --untrained
    python tools/zoo.py verify
    python tools/zoo.py verify resnet20_cifar10-jpeg --weights-only
    python tools/zoo.py publish configs/plain/lenet_mnist.py work_dirs/lenet_mnist
"""

import argparse
import sys
import tempfile


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='zoo.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    publish.add_argument('--command', help='what trained it; default: python tools/train.py CONFIG')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Do it; exit code 1 if a network is not as stated, 2 on mistakes in the command line."""
    args = parse_args(argv)
    # Late, so that --help does not import torch.
    from mmext import zoo
    from mmext.launch import user_errors

    with user_errors('zoo.py'):
        if args.action == 'publish':
            command = args.command or f'python tools/train.py {args.config}'
            show([(zoo.publish(args.config, args.work_dir, command), 'published')])
        elif args.action == 'list':
            show([(entry, '') for entry in zoo.entries()])
            names = zoo.untrained()
            sys.stdout.write(f'{len(names)} configs of the metafiles are untrained here\n')
            sys.stdout.write(''.join(f'  {name}\n' for name in names if args.untrained))
        else:
            chosen = [zoo.find(name) for name in args.names] or zoo.entries()
            results = [(entry, check(entry, args.weights_only)) for entry in chosen]
            wrong = [entry for entry, result in results if result not in ('ok', 'loads')]
            show([(entry, 'wrong' if entry in wrong else result) for entry, result in results])
            for entry, result in results:
                if entry in wrong:
                    sys.stdout.write(f'{entry.name}: {result}\n')
            if wrong:
                sys.exit(1)


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
