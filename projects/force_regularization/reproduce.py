"""Run the study of this plugin, draw its figures and refresh the claims tables."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Extra arguments go to the study; with ``--out`` the figures go there, too."""
    extra = sys.argv[1:]
    subprocess.run([sys.executable, str(HERE / 'study.py'), *extra], check=True)
    results = extra[extra.index('--out') + 1] if '--out' in extra else HERE / 'results'
    figures = [sys.executable, str(HERE / 'figures.py'), '--results', str(results)]
    subprocess.run(figures, check=True)
    if '--out' not in extra:
        subprocess.run([sys.executable, str(HERE / 'cost.py')], check=True)
        subprocess.run([sys.executable, str(HERE.parent / 'evidence.py')], check=True)


if __name__ == '__main__':
    main()
