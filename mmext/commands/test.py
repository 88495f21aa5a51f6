"""Evaluate a checkpoint with any config of mmext, mmdet or mmpretrain.

Examples:
  mmext test path/to/config.py work_dirs/config/epoch_1.pth
  mmext test path/to/config.py epoch_1.pth --out results.pkl --show-dir drawn
  mmext test mmext::plain/lenet_mnist.py --zoo --json
  mmext test path/to/config.py epoch_1.pth --ranks 2
"""

import argparse
import contextlib
import json
import os
import sys

from mmext.commands import options, ranks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='weights to evaluate')
    parser.add_argument(
        '--zoo', action='store_true', help="evaluate the repository's weights of this config"
    )
    parser.add_argument('--out', metavar='PKL', help='pickle file for the predictions')
    parser.add_argument('--show-dir', metavar='DIR', help='folder for images with the predictions')
    parser.add_argument(
        '--json', action='store_true', help='metrics alone on stdout, as JSON; the log on stderr'
    )
    options.add_run(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate as the command line says; exit with code 2 on mistakes in it."""
    with options.user_errors('mmext test'):
        if (args.checkpoint is None) != args.zoo:
            raise ValueError('give either a checkpoint or --zoo')
        ranks.start(args)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not args.json:
        _test(args)
        return
    with contextlib.redirect_stdout(sys.stderr):
        metrics = _test(args)
    if os.environ.get('RANK', '0') == '0':
        sys.stdout.write(json.dumps(metrics, indent=2) + '\n')


def _test(args: argparse.Namespace) -> dict[str, float]:
    from mmext import launch, zoo

    with options.user_errors('mmext test'):
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
    with options.user_errors('mmext test'):
        launch.check_checkpoint(runner.model, checkpoint)
    if args.out is not None:
        launch.dump_results(runner, args.out)
    return runner.test()
