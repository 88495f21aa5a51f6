"""Run the study of this plugin and refresh the claims tables."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """The study in a process of its own; extra arguments go to it."""
    subprocess.run([sys.executable, str(HERE / 'study.py'), *sys.argv[1:]], check=True)
    if '--quick' not in sys.argv:
        subprocess.run([sys.executable, str(HERE.parent / 'evidence.py')], check=True)


if __name__ == '__main__':
    main()
