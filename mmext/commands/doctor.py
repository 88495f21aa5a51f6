"""Report what is installed, what is wrong with it and the fix; exit code 1 if something is broken.

Examples:
  mmext doctor
  mmext doctor --json
"""

import argparse
import contextlib
import json
import sys
from dataclasses import asdict

SIGNS = {'ok': ('green', 'ok'), 'info': ('cyan', '--'), 'warning': ('yellow', '!!')}
BROKEN = ('red', 'XX')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument('--json', action='store_true', help='machine-readable report')


def run(args: argparse.Namespace) -> int:
    """Write the report and return the exit code."""
    from mmext.compat import environment

    # Some packages print when they are imported; stdout is for the report.
    with contextlib.redirect_stdout(sys.stderr):
        findings = environment.diagnose()
    if args.json:
        sys.stdout.write(json.dumps([asdict(item) for item in findings], indent=2) + '\n')
    else:
        write_table(findings)
    return int(any(item.status == 'error' for item in findings))


def write_table(findings) -> None:
    """Write the report, with colours where rich is installed."""
    rows = [
        (*SIGNS.get(item.status, BROKEN), item.check, item.detail, item.fix) for item in findings
    ]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for _, sign, check, detail, fix in rows:
            sys.stdout.write(f'{sign} {check}: {detail}\n' + (f'   fix: {fix}\n' if fix else ''))
        return
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for colour, sign, check, detail, fix in rows:
        text = Text(detail)
        if fix:
            text.append(f'\nfix: {fix}', style='bold')
        table.add_row(Text(sign, style=colour), check, text)
    Console().print(table)
