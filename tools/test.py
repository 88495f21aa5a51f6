#!/usr/bin/env python
"""Evaluate a checkpoint with any config of mmext, mmdet or mmpretrain.

Examples:
    python tools/test.py path/to/config.py work_dirs/config/epoch_1.pth
    python tools/test.py path/to/config.py epoch_1.pth --out results.pkl --show-dir drawn
    python tools/test.py path/to/config.py --zoo
    bash tools/dist_test.sh path/to/config.py epoch_1.pth 2
"""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmext import launch, zoo


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='test.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path, or package::path below the configs of a package')
    parser.add_argument('checkpoint', nargs='?', help='weights to evaluate')
    parser.add_argument(
        '--zoo', action='store_true', help="evaluate the repository's weights of this config"
    )
    parser.add_argument('--out', metavar='PKL', help='pickle file for the predictions')
    parser.add_argument('--show-dir', metavar='DIR', help='folder for images with the predictions')
    launch.add_common_arguments(parser)
    args = parser.parse_args(argv)
    if (args.checkpoint is None) != args.zoo:
        parser.error('give either a checkpoint or --zoo')
    return args


def main(argv: list[str] | None = None) -> None:
    """Evaluate as the command line says; exit with code 2 on mistakes in it."""
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with launch.user_errors('test.py'):
        checkpoint = str(zoo.find(args.config).weights) if args.zoo else args.checkpoint
        cfg = launch.load_config(
            args.config, args.cfg_options, args.overlays, checkpoint=checkpoint
        )
        launch.prepare_test(
            cfg,
            checkpoint,
            work_dir=args.work_dir,
            out=args.out,
            show_dir=args.show_dir,
            launcher=args.launcher,
        )
    runner = launch.build_runner(cfg)
    with launch.user_errors('test.py'):
        launch.check_checkpoint(runner.model, checkpoint)
    if args.out is not None:
        launch.dump_results(runner, args.out)
    runner.test()


if __name__ == '__main__':
    main()
