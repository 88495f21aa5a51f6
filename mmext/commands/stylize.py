"""Give a video the colours of a style image.

Key frames go through the network, the others are made from the originals by optical flow. Sound,
time stamps, frame rate and rotation are kept; the result appears when it is complete.

Examples:
  mmext stylize in.mp4 style.jpg out.mp4
  mmext stylize in.mov style.png out.mp4 --stylizer wavelet --size 1920x1080
  mmext stylize in.mp4 style.jpg out.mkv --propagation affine --policy residual
  mmext stylize in.mp4 style.jpg side_by_side.mp4 --compare
"""

import argparse
import re
from pathlib import Path

from mmext.commands import options

STYLIZERS = {
    'neural': 'NeuralColorMapping',
    'wavelet': 'WaveletStylizer',
    'mkl': 'MKLColorTransfer',
}
PROPAGATIONS = {
    'blend': 'FlowBlend',
    'affine': 'AffinePropagation',
    'warp': 'WarpPrevious',
    'hold': 'Hold',
}
POLICIES = {'fixed': 'FixedInterval', 'residual': 'ResidualTrigger', 'budget': 'BudgetAware'}
UPSCALERS = {
    'meta': 'MetaSmoothing',
    'affine': 'GuidedAffine',
    'guided': 'GuidedFilter',
    'bicubic': 'Bicubic',
}
#: Option -> (policies it belongs to, name there).
POLICY_OPTIONS = {
    'interval': (('fixed',), 'interval'),
    'threshold': (('residual', 'budget'), 'threshold'),
    'max_gap': (('residual', 'budget'), 'max_gap'),
    'budget': (('budget',), 'budget'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument('source', help='video, any container that FFmpeg reads')
    parser.add_argument('style', help='image file')
    parser.add_argument('target', help='video to write; the suffix tells the container')
    parser.add_argument('--stylizer', choices=tuple(STYLIZERS), default='neural')
    parser.add_argument('--weights', help='of the network (default: those that ship with mmext)')
    parser.add_argument(
        '--propagation', choices=tuple(PROPAGATIONS), default='blend',
        help='how the frames between keys are made (default: blend)',
    )  # fmt: skip
    parser.add_argument('--policy', choices=tuple(POLICIES), default='fixed')
    parser.add_argument('--interval', type=int, help='fixed: frames from key to key (default: 16)')
    parser.add_argument(
        '--threshold', type=float, help='residual, budget: PSNR in dB that asks for a key'
    )
    parser.add_argument('--max-gap', type=int, help='residual, budget: most frames between keys')
    parser.add_argument('--budget', type=float, help='budget: key frames a second')
    parser.add_argument('--upscaler', choices=tuple(UPSCALERS), default='meta')
    parser.add_argument(
        '--network-side', type=int, default=480, metavar='PIXELS',
        help='longer side at which the network works, 0: full size (default: 480)',
    )  # fmt: skip
    parser.add_argument('--size', metavar='WxH', help="of the result (default: the source's)")
    parser.add_argument('--compare', action='store_true', help='original beside the result')
    parser.add_argument('--no-sound', action='store_true', help='leave the sound out')
    parser.add_argument('--encoder', help="FFmpeg's name of the encoder (default: by container)")


def run(args: argparse.Namespace) -> None:
    """Stylise as the command line says; exit with code 2 on mistakes in it."""
    with options.user_errors('mmext stylize'):
        _stylize(args)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r'(\d+)[xX](\d+)', text)
    if not found or not int(found[1]) or not int(found[2]):
        raise ValueError(f'--size {text} must be WIDTHxHEIGHT in pixels, as 1920x1080')
    return int(found[2]), int(found[1])


def _policy(args: argparse.Namespace, rate: float) -> dict:
    settings: dict = {'type': f'mmext.{POLICIES[args.policy]}'}
    if args.policy == 'budget':
        settings['fps'] = rate
    for option, (owners, name) in POLICY_OPTIONS.items():
        value = getattr(args, option)
        if value is None:
            continue
        if args.policy not in owners:
            flag = option.replace('_', '-')
            raise ValueError(f'--{flag}: not an option of --policy {args.policy}')
        settings[name] = value
    return settings


def _stylize(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from mmext.plugins.mvstylizer.command import stylize_file
    from mmext.plugins.mvstylizer.video import VideoReader

    stylizer = {'type': f'mmext.{STYLIZERS[args.stylizer]}'}
    if args.weights:
        if args.stylizer == 'mkl':
            raise ValueError('--weights: --stylizer mkl has none')
        stylizer['weights'] = args.weights
    rate = 30.0
    if args.policy == 'budget':
        with VideoReader(args.source) as reader:
            rate = float(reader.rate)
    console = Console(stderr=True)
    columns = (
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
        TextColumn('{task.fields[fps]:.1f} fps'), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(Path(args.source).name, total=None, fps=0.0, visible=False)

        def shown(done: int, expected: int | None) -> None:
            # Headers lie: the bar grows rather than overflows.
            total = None if expected is None else max(expected, done)
            speed = progress.tasks[0].speed or 0.0
            progress.update(task, completed=done, total=total, fps=speed, visible=True)

        report = stylize_file(
            args.source, args.style, args.target,
            size=_size(args.size), compare=args.compare, sound=not args.no_sound,
            encoder=args.encoder, on_frame=shown, stylizer=stylizer,
            policy=_policy(args, rate),
            propagation={'type': f'mmext.{PROPAGATIONS[args.propagation]}'},
            upscaler={'type': f'mmext.{UPSCALERS[args.upscaler]}'},
            network_side=args.network_side,
        )  # fmt: skip
    counts = report.counts
    height, width = report.size
    console.print(
        f'{args.target}: {counts.frames} frames of {width}x{height}, {counts.keys} key frames, '
        f'{counts.cuts} scene cuts, {report.fps:.1f} fps'
    )
