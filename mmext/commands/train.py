"""Train any config of mmext, mmdet or mmpretrain.

Examples:
  mmext train mmext::plain/lenet_mnist.py --work-dir work_dirs/lenet
  mmext train path/to/config.py --resume --cfg-options train_cfg.max_epochs=3
  mmext train mmpretrain::lenet/lenet5_mnist.py --with terngrad smoothout --print
  mmext train path/to/config.py --with terngrad --ranks 2
  mmext train detector.py --with cst --labelled mine.json --unlabelled photos/
  mmext train --list mmpretrain::resnet
"""

import argparse
import json
import os
import sys

from mmext import shipped
from mmext.commands import options, ranks
from mmext.commands.own_data import add_own_data_arguments, own_data_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser, nargs='?')
    parser.add_argument(
        '--list',
        nargs='?',
        const='',
        metavar='PATTERN',
        help='name the shipped configs that contain PATTERN (package::part of the name), and stop',
    )
    parser.add_argument('--json', action='store_true', help='with --list: as JSON')
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
    options.add_run(parser)
    add_own_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train as the command line says; exit with code 2 on mistakes in it."""
    with options.user_errors('mmext train'):
        if args.list is not None:
            names = shipped.find_configs(args.list)
            lines = json.dumps(names, indent=2) if args.json else '\n'.join(names)
            sys.stdout.write(lines + '\n' * bool(lines))
            return
        if args.config is None:
            raise ValueError('name a config, or list those there are by --list')
        shipped.resolve_config(args.config)
        ranks.start(args)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    from mmext import launch
    from mmext.launch import overlay

    with options.user_errors('mmext train'):
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
    with options.user_errors('mmext train', unless=lambda: launch.built(runner)):
        runner.train()
