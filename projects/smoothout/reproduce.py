"""Run the studies of this plugin and refresh the claims tables."""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUDIES = ('landscape.py', 'overhead.py', 'generalisation.py')


def main() -> None:
    """Each study in a process of its own; the first that fails or runs out of time ends it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a minute; give --out as well')
    args, options = parser.parse_known_args()
    if args.quick:
        options.append('--quick')
    for study in STUDIES:
        done = subprocess.run([sys.executable, str(HERE / study), *options])
        if done.returncode:
            sys.exit(done.returncode)
    if not args.quick:
        subprocess.run([sys.executable, str(HERE.parent / 'evidence.py')], check=True)


if __name__ == '__main__':
    main()
