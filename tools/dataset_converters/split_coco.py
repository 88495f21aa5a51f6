"""Draw labelled shares of a COCO data set, without replacement: "10 %" is 10 %.

Example:
    python tools/dataset_converters/split_coco.py data/coco/annotations/instances_train2017.json \
        --out data/coco/semi_anns --percent 1 2 5 10 --folds 5
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmext.datasets.coco_split import split_coco


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Write {stem}.{fold}@{percent}.json and -unlabeled.json for each share and '
        'fold. The unlabelled files have no annotations.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('ann_file', help='COCO annotations of the training images')
    parser.add_argument('--out', default='data/coco/semi_anns', help='target folder')
    parser.add_argument(
        '--percent', type=float, nargs='+', default=[1, 2, 5, 10], help='labelled shares'
    )
    parser.add_argument('--folds', type=int, default=5, help='draws of each share')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Split as the command line says."""
    args = parse_args(argv)
    try:
        written = split_coco(args.ann_file, args.out, args.percent, args.folds, args.seed)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    for name, images in written.items():
        print(f'{args.out}/{name}: {images} images')


if __name__ == '__main__':
    main()
