#!/usr/bin/env python
"""Print a config with all its bases merged.

Examples:
    python tools/print_config.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
    python tools/print_config.py path/to/config.py --cfg-options train_cfg.max_epochs=3 --out all.py
    python tools/print_config.py mmpretrain::lenet/lenet5_mnist.py --with terngrad --diff
"""

import argparse
import contextlib
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmext import launch
from mmext.launch import overlay


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='print_config.py',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='path, or package::path below the configs of a package')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=launch.CfgOptions,
        metavar='KEY=VALUE',
        help='override keys of the config: a.b=1 c="[1,2]" d.0.e=x',
    )
    launch.add_overlay_argument(parser)
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
    args = parser.parse_args(argv)
    if args.out is not None and args.diff is not None:
        parser.error('--out writes a config, --diff prints a difference: choose one')
    if args.out is not None and not args.out.endswith(('.py', '.json', '.yml', '.yaml')):
        parser.error(f'--out must end in .py, .json, .yml or .yaml, got {args.out}')
    return args


def main(argv: list[str] | None = None) -> None:
    """Print or write the config; exit with code 2 on mistakes in the command line."""
    args = parse_args(argv)
    # What is logged meanwhile must not end up in the config.
    with launch.user_errors('print_config.py'), contextlib.redirect_stdout(sys.stderr):
        cfg = launch.load_config(args.config, args.cfg_options, args.overlays)
        other = None if args.diff is None else launch.load_config(args.diff or args.config)
    if other is not None:
        sys.stdout.write(overlay.difference(other, cfg) + '\n')
    elif args.out is None:
        sys.stdout.write(cfg.pretty_text.rstrip('\n') + '\n')
    else:
        cfg.dump(args.out)


if __name__ == '__main__':
    main()
