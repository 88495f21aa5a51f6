"""Certify an image classifier under Gaussian noise: L2 radii within which no change of the pixels
can change the prediction of the smoothed classifier.

Images whose record is in the output folder are not done again, so a killed run goes on where it
stopped. Both bounds, Cohen's and T-CERTIFY, are computed from the same samples.

Examples:
  mmext certify path/to/config.py epoch_90.pth --sigma 0.5
  mmext certify path/to/config.py epoch_90.pth --sigma 0.25 --skip 20 --n 10000
  mmext certify path/to/config.py epoch_90.pth --sigma 1.0 --target-radius 0.5
"""

import argparse
import json
import sys
from pathlib import Path

from mmext.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser)
    parser.add_argument('checkpoint', help='weights of the classifier')
    parser.add_argument(
        '--sigma', type=float, required=True, help='noise, in pixels of range [0, 1]'
    )
    parser.add_argument('--n0', type=int, default=100, help='samples that choose the class')
    parser.add_argument('--n', type=int, default=100_000, help='samples that bound it')
    parser.add_argument('--alpha', type=float, default=0.001, help='chance of a wrong certificate')
    parser.add_argument('--batch', type=int, default=1024, help='noisy images per forward pass')
    parser.add_argument('--images', type=int, default=16, help='images that share a forward pass')
    parser.add_argument(
        '--target-radius', type=float, metavar='R', help='stop an image once R is decided'
    )
    parser.add_argument(
        '--method',
        choices=('t_certify', 'cohen'),
        help='only this bound (default: both; with --target-radius: t_certify)',
    )
    parser.add_argument(
        '--separate-noise', action='store_true', help='noise of its own for each image'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the noise')
    parser.add_argument(
        '--out', help='folder of the results (default: work_dirs/<config name>/certify_<sigma>)'
    )
    options.add_images(parser)


def run(args: argparse.Namespace) -> None:
    """Certify as the command line says; exit with code 2 on mistakes in it."""
    with options.user_errors('mmext certify'):
        _certify(args)


def _certify(args: argparse.Namespace) -> None:
    from mmengine.device import get_device
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from mmext import launch
    from mmext.attacks.adversarial import build_test_dataset
    from mmext.launch.records import sha256
    from mmext.plugins.randomized_smoothing import SmoothedClassifier, certification

    options.check_images(args)
    cfg = launch.load_config(args.config, args.cfg_options, checkpoint=args.checkpoint)
    base = certification.load_base(cfg, args.checkpoint, args.device or get_device())
    model = SmoothedClassifier(
        base,
        args.sigma,
        n0=args.n0,
        n=args.n,
        alpha=args.alpha,
        method=args.method or 't_certify',
        batch=args.batch,
        images=args.images,
        share_noise=not args.separate_noise,
        target_radius=args.target_radius,
        seed=args.seed,
        bounds=tuple(args.bounds),
    )
    dataset = build_test_dataset(cfg)
    indices = range(0, len(dataset), args.skip)[: args.max]
    methods: tuple[str, ...] = ('cohen', 't_certify')
    if args.method or args.target_radius is not None:
        methods = (model.method,)
    out = Path(args.out or f'work_dirs/{Path(args.config).stem}/certify_{args.sigma:g}')
    settings = {'config': args.config, 'checkpoint_sha256': sha256(args.checkpoint)}
    with Progress(console=Console(stderr=True)) as progress:
        images = progress.add_task('images', total=len(indices))
        samples = progress.add_task('noisy images', total=len(indices) * (args.n0 + args.n))
        per_image = args.n0 + args.n

        def on_image(count: int) -> None:
            progress.advance(images, count)
            # Early stops and images on record count as done.
            progress.update(samples, completed=progress.tasks[images].completed * per_image)

        records = certification.certify_dataset(
            model, dataset, indices, out, settings,
            on_samples=lambda count: progress.advance(samples, count), on_image=on_image,
        )  # fmt: skip
    told = {'sigma': args.sigma, 'n0': args.n0, 'n': args.n, 'alpha': args.alpha,
            'target_radius': args.target_radius, **settings}  # fmt: skip
    found = certification.report(records, out, told, methods)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + '\n')
        return
    table = Table(title=f'{len(records)} images, sigma {args.sigma:g}: {out}')
    table.add_column('measure')
    for method in methods:
        table.add_column(method, justify='right')
    for name in found[methods[0]]:
        table.add_row(name, *(f'{found[method][name]:.3f}' for method in methods))
    Console().print(table)
