#!/usr/bin/env python
"""Report what is installed, what is wrong with it and the mend; exit code 1 if something is broken.

Examples:
    python tools/doctor.py
    python tools/doctor.py --json
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIGNS = {'ok': ('green', 'ok'), 'info': ('cyan', '--'), 'warning': ('yellow', '!!')}
BROKEN = ('red', 'XX')


def load_environment():
    """Import mmext.compat.environment, also where ``import mmext`` itself fails."""
    if importlib.util.find_spec('mmext') is None:
        sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module('mmext.compat.environment')
    except Exception as error:  # MMEngine is missing or broken: exactly then a report is wanted
        sys.stderr.write(f'import mmext: {type(error).__name__}: {error}\n')
    path = ROOT / 'mmext' / 'compat' / 'environment.py'
    spec = importlib.util.spec_from_file_location('mmext_environment', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_table(findings) -> None:
    """Write the report, with colours where rich is installed."""
    rows = [
        (*SIGNS.get(item.status, BROKEN), item.check, item.detail, item.mend) for item in findings
    ]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for _, sign, check, detail, mend in rows:
            sys.stdout.write(f'{sign} {check}: {detail}\n' + (f'   mend: {mend}\n' if mend else ''))
        return
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for colour, sign, check, detail, mend in rows:
        text = Text(detail)
        if mend:
            text.append(f'\nmend: {mend}', style='bold')
        table.add_row(Text(sign, style=colour), check, text)
    Console().print(table)


def main(argv: list[str] | None = None) -> int:
    """Write the report and return the exit code."""
    parser = argparse.ArgumentParser(
        prog='doctor.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', action='store_true', help='machine-readable report')
    args = parser.parse_args(argv)
    # Some packages print when they are imported; stdout is for the report.
    with contextlib.redirect_stdout(sys.stderr):
        findings = load_environment().diagnose()
    if args.json:
        sys.stdout.write(json.dumps([asdict(item) for item in findings], indent=2) + '\n')
    else:
        write_table(findings)
    return int(any(item.status == 'error' for item in findings))


if __name__ == '__main__':
    sys.exit(main())
