"""Run the studies of this plugin and refresh the claims tables."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUDIES = ('budget.py', 'speed.py')


def main() -> None:
    """Each study in a process of its own; extra arguments go to all of them."""
    for study in STUDIES:
        subprocess.run([sys.executable, str(HERE / study), *sys.argv[1:]], check=True)
    if '--quick' not in sys.argv:
        subprocess.run([sys.executable, str(HERE.parent / 'evidence.py')], check=True)


if __name__ == '__main__':
    main()
