#!/usr/bin/env python
"""Train any config of mmext, mmdet or mmpretrain.

Examples:
    python tools/train.py mmext::cst/<config>.py --work-dir work_dirs/cst
    python tools/train.py path/to/config.py --resume --cfg-options train_cfg.max_epochs=3
    python tools/train.py mmpretrain::lenet/lenet5_mnist.py --with terngrad smoothout --print
    bash tools/dist_train.sh path/to/config.py 2
"""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmext import launch
from mmext.commands.own_data import add_own_data_arguments, own_data_options
from mmext.launch import overlay


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='train.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path, or package::path below the configs of a package')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='go on from this checkpoint; without CKPT from the latest in the work dir, if any',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help="train in mixed precision: the optimizer wrapper's Amp counterpart on a GPU, bfloat16 "
        '(mmext.AutocastHook) on a CPU',
    )
    parser.add_argument(
        '--channels-last',
        action='store_true',
        help='channels_last activations (mmext.ChannelsLastHook): faster convolutions',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by total batch size / auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--shard',
        action='store_true',
        help='FSDP2: each rank holds its share of weights, gradients and optimizer states '
        '(mmext.FSDP2Strategy)',
    )
    parser.add_argument(
        '--print', action='store_true', help='show what the options change in the config, and stop'
    )
    add_own_data_arguments(parser)
    launch.add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says; exit with code 2 on mistakes in it."""
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with launch.user_errors('train.py'):
        cfg = launch.load_config(
            args.config,
            {**(args.cfg_options or {}), **own_data_options(args)},
            args.overlays,
            resume=args.resume,
            work_dir=args.work_dir,
        )
        if args.print:
            host = launch.load_config(args.config)
            sys.stdout.write(overlay.difference(host, cfg) + '\n')
            return
        launch.prepare(
            cfg,
            work_dir=args.work_dir,
            resume=args.resume,
            amp=args.amp,
            channels_last=args.channels_last,
            auto_scale_lr=args.auto_scale_lr,
            shard=args.shard,
            launcher=args.launcher,
        )
        runner = launch.build_runner(cfg)
    with launch.user_errors('train.py', unless=lambda: launch.built(runner)):
        runner.train()


if __name__ == '__main__':
    main()
