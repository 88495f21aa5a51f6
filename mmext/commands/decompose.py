"""Decompose the convolutions of a trained model into low-rank pairs.

Takes any config of mmext, mmdet or mmpretrain with its checkpoint and writes a folder with a config
that rebuilds and fine-tunes the low-rank model, its checkpoint, and a report.

Examples:
  mmext decompose path/to/config.py epoch_9.pth --energy 0.95 --shape 3 224 224
  mmext decompose mmdet::retinanet/retinanet_r50_fpn_1x_coco.py weights.pth
        --target-latency 0.7 --shape 3 640 640 --skip bbox_head --out work_dirs/retinanet_lowrank
  mmext train work_dirs/retinanet_lowrank/retinanet_lowrank.py
  mmext decompose LOWRANK_CONFIG lasso.pth --cut --out work_dirs/cut
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mmext.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser)
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
        metavar=('C', 'H', 'W'),
        help='image that is timed and exported (default: as the first one of the test data)',
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
        '--json', action='store_true', help='print report.json in place of the table'
    )
    options.add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Decompose as the command line says; exit with code 2 on mistakes in it."""
    import torch

    from mmext import launch
    from mmext.plugins.force_regularization import deploy

    torch.set_num_threads(args.threads)
    with options.user_errors('mmext decompose'):
        cfg = launch.load_config(args.config, args.cfg_options, checkpoint=args.checkpoint)
        folder = Path(args.out or f'work_dirs/{Path(cfg.filename).stem}_lowrank')
        images = torch.rand(1, *(args.shape or _first_shape(cfg)))
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
    sys.stdout.write((folder / 'report.json').read_text() if args.json else result)


def _first_shape(cfg: Any) -> tuple[int, ...]:
    """Shape of the first image of a config's test data.

    Raises:
        ValueError: It cannot be read.
    """
    from mmengine.registry import DATASETS

    try:
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            return tuple(registry.build(cfg.test_dataloader.dataset)[0]['inputs'].shape)
    except Exception as error:
        raise ValueError(
            f'name the image to time by --shape C H W: the test data of the config cannot be read '
            f'({type(error).__name__}: {error})'
        ) from error
