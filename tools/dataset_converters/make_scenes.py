"""Generate scenes of digits or garments on photos, a detection benchmark in COCO format.

Starts from the settings of a named set and changes what else is given. The sets themselves are
prepared by mmext data.

Examples:
    python tools/dataset_converters/make_scenes.py --percent 2 10
    python tools/dataset_converters/make_scenes.py --like fashion_scenes --photos packages
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmext.datasets.backgrounds import PHOTO_SETS
from mmext.datasets.scene_objects import OBJECTS
from mmext.datasets.scene_settings import DATA_SETS, SceneSettings
from mmext.datasets.scenes import generate


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--like',
        choices=DATA_SETS,
        default='digit_scenes',
        help='set that gives all settings left out here (default: %(default)s)',
    )
    parser.add_argument('--out', help='target folder (default: data/<like>)')
    parser.add_argument(
        '--data-root', default='data', help='folder that holds mnist, fashion-mnist, bsds500'
    )
    parser.add_argument('--objects', choices=OBJECTS, help='what is pasted on the photos')
    parser.add_argument(
        '--photos',
        choices=PHOTO_SETS,
        help='BSDS500, or photos inside installed packages: scikit-image alone, or all',
    )
    parser.add_argument('--size', type=int, help='side of a scene in pixels')
    parser.add_argument(
        '--sides',
        type=int,
        nargs=2,
        metavar=('LEAST', 'MOST'),
        help='longer side of an object in pixels',
    )
    parser.add_argument('--train', type=int, help='training scenes')
    parser.add_argument('--val', type=int, help='validation scenes')
    parser.add_argument('--test', type=int, help='test scenes')
    parser.add_argument(
        '--percent',
        type=float,
        nargs='+',
        help='labelled shares of the training scenes, in percent',
    )
    parser.add_argument(
        '--stratified',
        action=argparse.BooleanOptionalAction,
        help='every class equally often in a labelled share, as far as possible',
    )
    parser.add_argument('--folds', type=int, help='draws of each share')
    parser.add_argument('--seed', type=int)
    parser.add_argument('--force', action='store_true', help='replace scenes of other settings')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Generate the scenes the command line asks for."""
    args = parse_args(argv)
    given = {
        field.name: getattr(args, field.name)
        for field in fields(SceneSettings)
        if getattr(args, field.name) is not None
    }
    try:
        settings = replace(DATA_SETS[args.like], **given)
        generate(
            args.out or Path('data') / args.like, settings, args.force, data_root=args.data_root
        )
    except (ValueError, FileExistsError, FileNotFoundError, ImportError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
