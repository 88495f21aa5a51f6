"""Print a config with all its bases merged.

Examples:
  mmext config mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
  mmext config path/to/config.py --cfg-options train_cfg.max_epochs=3 --out all.py
  mmext config mmpretrain::lenet/lenet5_mnist.py --with terngrad --diff
"""

import argparse
import contextlib
import sys

from mmext.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser)
    options.add_cfg_options(parser)
    options.add_overlays(parser)
    parser.add_argument(
        '--diff',
        nargs='?',
        const='',
        metavar='CONFIG',
        help='print only what differs from this config; without one, what the options change',
    )
    parser.add_argument(
        '--out', metavar='FILE', help='write to this .py, .json or .yml file instead'
    )


def run(args: argparse.Namespace) -> None:
    """Print or write the config; exit with code 2 on mistakes in the command line."""
    from mmext import launch
    from mmext.launch import overlay

    # What is logged meanwhile must not end up in the config.
    with options.user_errors('mmext config'), contextlib.redirect_stdout(sys.stderr):
        if args.out is not None and args.diff is not None:
            raise ValueError('--out writes a config, --diff prints a difference: choose one')
        if args.out is not None and not args.out.endswith(('.py', '.json', '.yml', '.yaml')):
            raise ValueError(f'--out must end in .py, .json, .yml or .yaml, got {args.out}')
        cfg = launch.load_config(args.config, args.cfg_options, args.overlays)
        other = None if args.diff is None else launch.load_config(args.diff or args.config)
    if other is not None:
        sys.stdout.write(overlay.difference(other, cfg) + '\n')
    elif args.out is None:
        sys.stdout.write(cfg.pretty_text.rstrip('\n') + '\n')
    else:
        cfg.dump(args.out)
