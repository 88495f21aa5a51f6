"""Generate the digit scenes, an offline detection benchmark in COCO format.

Example:
    python tools/dataset_converters/make_digit_scenes.py --out data/digit_scenes --percent 2 10
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmext.datasets.digit_scenes import SceneSettings, generate


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    default = SceneSettings()
    parser = argparse.ArgumentParser(
        description='Generate digit scenes: COCO-format detection data from scikit-learn digits '
        'and scikit-image photos, without any download.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', default='data/digit_scenes', help='target folder')
    parser.add_argument('--size', type=int, default=default.size, help='side of a scene in pixels')
    parser.add_argument('--train', type=int, default=default.train, help='training scenes')
    parser.add_argument('--val', type=int, default=default.val, help='validation scenes')
    parser.add_argument('--test', type=int, default=default.test, help='test scenes')
    parser.add_argument(
        '--percent',
        type=float,
        nargs='+',
        default=list(default.percent),
        help='labelled shares of the training scenes, in percent',
    )
    parser.add_argument('--folds', type=int, default=default.folds, help='draws of each share')
    parser.add_argument('--seed', type=int, default=default.seed)
    parser.add_argument(
        '--force', action='store_true', help='replace digit scenes of other settings'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Generate the scenes the command line asks for."""
    args = parse_args(argv)
    values = {field.name: getattr(args, field.name) for field in fields(SceneSettings)}
    values['percent'] = tuple(values['percent'])
    try:
        generate(args.out, SceneSettings(**values), force=args.force)
    except (ValueError, FileExistsError, FileNotFoundError, ImportError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
