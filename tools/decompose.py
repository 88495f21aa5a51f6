#!/usr/bin/env python
"""Decompose the convolutions of a trained model into low-rank pairs.

Takes any config of mmext, mmdet or mmpretrain with its checkpoint and writes a folder with a config
that rebuilds and fine-tunes the low-rank model, its checkpoint, and a report.

Examples:
    python tools/decompose.py path/to/config.py epoch_9.pth --energy 0.95 --shape 3 224 224
    python tools/decompose.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py weights.pth
        --target-latency 0.7 --shape 3 640 640 --skip bbox_head --out work_dirs/retinanet_lowrank
    python tools/train.py work_dirs/retinanet_lowrank/retinanet_lowrank.py
    python tools/decompose.py LOWRANK_CONFIG lasso.pth --cut --out work_dirs/cut
"""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmext') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmext import launch


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='decompose.py',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='path, or package::path below the configs of a package')
    parser.add_argument('checkpoint', help='weights of that config')
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument('--energy', type=float, help='share each layer keeps (default: 0.95)')
    goal.add_argument('--ranks', metavar='JSON', help='file of {layer: rank}')
    goal.add_argument('--target-macs', type=float, help='share of the MACs, or their number')
    goal.add_argument('--target-latency', type=float, help='share of the measured latency')
    goal.add_argument(
        '--cut', action='store_true', help='only cut zero components (mmext.ComponentLassoHook)'
    )
    parser.add_argument('--method', default='pca', help='pca, svd, kmeans or spatial')
    parser.add_argument('--round-to', type=int, default=8, help='ranks are multiples of this')
    parser.add_argument(
        '--skip', nargs='+', default=[], metavar='REGEX', help='layers to leave alone'
    )
    parser.add_argument(
        '--faster-only', action='store_true', help='keep layers whose pair is measured as slower'
    )
    parser.add_argument(
        '--shape',
        nargs=3,
        type=int,
        default=(3, 224, 224),
        metavar=('C', 'H', 'W'),
        help='image that is timed and exported (default: 3 224 224)',
    )
    parser.add_argument('--channels-last', action='store_true', help='time in this memory format')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads to time with')
    parser.add_argument('--rounds', type=int, default=10, help='timed runs')
    parser.add_argument('--onnx', action='store_true', help='export, check and time with ONNX')
    parser.add_argument(
        '--lr-scale', type=float, default=0.1, help='learning rate of fine-tuning, relative'
    )
    parser.add_argument('--out', help='folder (default: work_dirs/<config name>_lowrank)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=launch.CfgOptions,
        metavar='KEY=VALUE',
        help='override keys of the config: a.b=1 c="[1,2]" d.0.e=x',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Decompose as the command line says; exit with code 2 on mistakes in it."""
    args = parse_args(argv)
    import torch

    from mmext.plugins.force_regularization import deploy

    torch.set_num_threads(args.threads)
    with launch.user_errors('decompose.py'):
        cfg = launch.load_config(args.config, args.cfg_options, checkpoint=args.checkpoint)
        folder = Path(args.out or f'work_dirs/{Path(cfg.filename).stem}_lowrank')
        images = torch.rand(1, *args.shape)
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        ranks = None if args.ranks is None else json.loads(Path(args.ranks).read_text())
        result = deploy.run(
            cfg,
            args.checkpoint,
            images,
            folder,
            cut=args.cut,
            onnx=args.onnx,
            lr_scale=args.lr_scale,
            energy=args.energy,
            ranks=ranks,
            target_macs=args.target_macs,
            target_latency=args.target_latency,
            method=args.method,
            round_to=args.round_to,
            skip=args.skip,
            faster_only=args.faster_only,
            rounds=args.rounds,
        )
    sys.stdout.write(result)


if __name__ == '__main__':
    main()
