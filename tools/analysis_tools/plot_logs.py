#!/usr/bin/env python
"""Plot losses and metrics of trainings from the logs that MMEngine leaves in their work dirs.

Examples:
    python tools/analysis_tools/plot_logs.py work_dirs/lenet5_mnist
    python tools/analysis_tools/plot_logs.py work_dirs/plain work_dirs/terngrad \
        --legend plain ternary --keys loss accuracy/top1 --out both.png
    python tools/analysis_tools/plot_logs.py work_dirs/run/20260101_000000/vis_data/scalars.json
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmext.commands.options import user_errors
from mmext.engine.curves import read_scalars
from mmext.launch import comparison


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='plot_logs.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument('runs', nargs='+', help='work dirs, folders of a run, or scalars.json')
    parser.add_argument(
        '--keys', nargs='+', default=[], metavar='KEY',
        help='what to draw, with or without train/ or val/ (default: loss and all metrics)',
    )  # fmt: skip
    parser.add_argument('--legend', nargs='+', metavar='TEXT', help='a name for each run')
    parser.add_argument('--out', default='logs.png', help='image to write (default: logs.png)')
    parser.add_argument('--list', action='store_true', help='only list the keys of the runs')
    args = parser.parse_args(argv)
    if args.legend is not None and len(args.legend) != len(args.runs):
        parser.error(f'--legend has {len(args.legend)} names for {len(args.runs)} runs')
    return args


def main(argv: list[str] | None = None) -> None:
    """Plot as the command line says; exit with code 2 on mistakes in it."""
    args = parse_args(argv)
    names = args.legend or args.runs
    if len(set(names)) < len(names):
        names = [f'{index}: {name}' for index, name in enumerate(names, 1)]
    with user_errors('plot_logs.py'):
        groups = {name: [read_scalars(run)] for name, run in zip(names, args.runs, strict=True)}
        runs = [run for group in groups.values() for run in group]
        if args.list:
            sys.stdout.write('\n'.join(sorted({key for run in runs for key in run})) + '\n')
            return
        keys = comparison.find_keys(runs, args.keys)
        comparison.plot_runs(groups, keys, args.out)
    sys.stdout.write(f'{args.out}: {", ".join(keys)}\n')


if __name__ == '__main__':
    main()
