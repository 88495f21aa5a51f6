"""Draw the figures of the documentation from recorded results.

A figure is a module of this folder with ``SOURCES``, the files it is made of, and ``draw(style)``,
which returns a Matplotlib figure. Each is written twice, ``docs/figures/NAME-light.png`` and
``NAME-dark.png``; ``docs/figures/index.json`` has the SHA-256 of what they were made of.

Examples:
    python projects/figures/draw.py
    python projects/figures/draw.py mat smoothout
    python projects/figures/draw.py --check
"""

import argparse
import hashlib
import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OUT = ROOT / 'docs/figures'
INDEX = OUT / 'index.json'
sys.path[:0] = [str(HERE.parent), str(HERE)]


def names() -> list[str]:
    """All figures, sorted."""
    return sorted(path.stem for path in HERE.glob('*.py') if path.stem not in ('draw', 'style'))


def digests(name: str) -> dict[str, str]:
    """SHA-256 of the files that a figure is made of: its script and its sources."""
    sources = importlib.import_module(name).SOURCES
    paths = [f'projects/figures/{name}.py', 'projects/figures/style.py', *sources]
    return {path: hashlib.sha256((ROOT / path).read_bytes()).hexdigest() for path in paths}


def stale() -> list[str]:
    """Figures that are missing or whose script or sources have changed."""
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    return [
        name
        for name in names()
        if index.get(name) != digests(name)
        or not all((OUT / f'{name}-{kind}.png').exists() for kind in ('light', 'dark'))
    ]


def draw(name: str) -> None:
    """Write both files of a figure and its entry in the index."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    import style

    OUT.mkdir(parents=True, exist_ok=True)
    for one in style.STYLES:
        with style.applied(one):
            figure = importlib.import_module(name).draw(one)
            # Without the version of Matplotlib the same data are the same file.
            figure.savefig(
                OUT / f'{name}-{one.name}.png', dpi=style.DPI, metadata={'Software': None}
            )
            plt.close(figure)
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    index[name] = digests(name)
    INDEX.write_text(json.dumps(dict(sorted(index.items())), indent=2) + '\n')


def main() -> None:
    """Draw the named figures, or those that are stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('names', nargs='*', metavar='NAME', help='default: those that are stale')
    parser.add_argument('--check', action='store_true', help='only name them; exit code 1 if any')
    args = parser.parse_args()
    unknown = set(args.names) - set(names())
    if unknown:
        parser.error(f'no figure {", ".join(sorted(unknown))}; there are {", ".join(names())}')
    for name in args.names or stale():
        sys.stdout.write(f'{name}\n')
        if not args.check:
            draw(name)
    sys.exit(bool(args.check and stale()))


if __name__ == '__main__':
    main()
