"""Run the studies of this plugin and refresh the claims tables."""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUDIES = ('coverage.py', 'throughput.py', 'study.py')


def main() -> None:
    """Each study in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a minute, no result files')
    parser.add_argument('--work-dir', type=Path, help='of study.py')
    parser.add_argument('--minutes', type=float, help='of study.py; exit 75 if it is not finished')
    args = parser.parse_args()
    common = ['--quick'] if args.quick else []
    for study in STUDIES:
        options = list(common)
        if study == 'study.py':
            for name in ('work_dir', 'minutes'):
                value = getattr(args, name)
                if value is not None:
                    options += [f'--{name.replace("_", "-")}', str(value)]
        done = subprocess.run([sys.executable, str(HERE / study), *options])
        if done.returncode:
            sys.exit(done.returncode)
    if not args.quick:
        subprocess.run([sys.executable, str(HERE.parent / 'evidence.py')], check=True)


if __name__ == '__main__':
    main()
