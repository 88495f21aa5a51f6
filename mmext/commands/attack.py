"""Attack an image classifier on the test data of its config.

Prints clean and robust accuracy, success, L2 distances, steps to the first success and passes;
writes attack.json, attack.tsv and attack.png (clean, adversarial, difference). Images whose record
is in the output folder are not attacked again, so a killed run goes on where it stopped.

Examples:
  mmext attack path/to/config.py epoch_40.pth --attack guided_cw
  mmext attack path/to/config.py epoch_40.pth --attack pgd --eps 0.0157 0.0314
  mmext attack path/to/config.py epoch_40.pth --attack cw --save adversarial/
"""

import argparse
import json
import sys
from pathlib import Path

from mmext.commands import options

#: Attack -> options that reach it.
OPTIONS = {
    'cw': ('steps', 'search_steps', 'lr', 'initial_const', 'kappa', 'warm_start'),
    'guided_cw': ('steps', 'search_steps', 'lr', 'initial_const', 'kappa', 'refresh', 'warm_start'),
    'ddn': ('steps',),
    'fmn': ('steps',),
    'pgd': ('steps', 'norm'),
    'fgsm': ('norm',),
}
L2 = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser)
    parser.add_argument('checkpoint', help='weights of the classifier')
    parser.add_argument('--attack', choices=tuple(OPTIONS), default='guided_cw')
    parser.add_argument(
        '--eps', type=float, nargs='+', metavar='EPS',
        help='pgd, fgsm: budgets in [0, 1] of the range of pixels; others: L2 distances at which '
        f'to give the robust accuracy (default: {" ".join(map(str, L2))})',
    )  # fmt: skip
    parser.add_argument('--steps', type=int, help='gradient steps (default: 100, pgd 20)')
    parser.add_argument('--search-steps', type=int, help='constants tried by CW (default: 9)')
    parser.add_argument('--lr', type=float, help='learning rate of CW (default: 0.01)')
    parser.add_argument('--initial-const', type=float, help="CW's first constant (default: 0.001)")
    parser.add_argument('--kappa', type=float, help='confidence of CW in logits (default: 0)')
    parser.add_argument('--refresh', type=int, help='renew the guidance every so many steps')
    parser.add_argument(
        '--warm-start', action='store_true', default=None,
        help='begin each constant where the last one ended',
    )  # fmt: skip
    parser.add_argument('--norm', choices=('linf', 'l2'), help='ball of pgd and fgsm')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--seed', type=int, default=0, help='seed of random starts')
    parser.add_argument('--save', metavar='DIR', help='keep the adversarial images here')
    parser.add_argument(
        '--out', help='folder of the results (default: work_dirs/<config name>/<attack>)'
    )
    options.add_images(parser)


def run(args: argparse.Namespace) -> None:
    """Attack as the command line says; exit with code 2 on mistakes in it."""
    with options.user_errors('mmext attack'):
        _attack(args)


def _options(args: argparse.Namespace) -> dict:
    names = sorted({name for known in OPTIONS.values() for name in known})
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    wrong = [name for name in given if name not in OPTIONS[args.attack]]
    if wrong:
        flags = ', '.join('--' + name.replace('_', '-') for name in wrong)
        raise ValueError(f'{flags}: not an option of --attack {args.attack}')
    defaults = {'steps': 20 if args.attack == 'pgd' else 100, 'search_steps': 9}
    return {k: v for k, v in defaults.items() if k in OPTIONS[args.attack]} | given


def _attack(args: argparse.Namespace) -> None:
    from mmengine.device import get_device
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from mmext import launch
    from mmext.attacks.adversarial import build_test_dataset, load_classifier
    from mmext.launch.records import sha256
    from mmext.plugins.guided_cw import evaluation
    from mmext.plugins.guided_cw.load_adversarial_image import write_index

    options.check_images(args)
    settings_of_attack = _options(args)
    budgeted = args.attack in evaluation.BUDGETED
    eps = tuple(args.eps or (() if budgeted else L2))
    cfg = launch.load_config(args.config, args.cfg_options, checkpoint=args.checkpoint)
    model = load_classifier(cfg, args.checkpoint, args.device or get_device())
    dataset = build_test_dataset(cfg)
    indices = range(0, len(dataset), args.skip)[: args.max]
    out = Path(args.out or f'work_dirs/{Path(args.config).stem}/{args.attack}')
    settings = {'config': args.config, 'checkpoint_sha256': sha256(args.checkpoint)}
    save = Path(args.save) if args.save else None
    if save is not None:
        write_index(save, {**settings, 'attack': args.attack, 'options': settings_of_attack})
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f'{args.attack} images', total=len(indices))
        records = evaluation.attack_dataset(
            model, dataset, indices, out, attack=args.attack, options=settings_of_attack,
            eps=eps if budgeted else (), batch_size=args.batch_size, bounds=tuple(args.bounds),
            save=save, settings=settings, seed=args.seed,
            on_batch=lambda count: progress.advance(task, count),
        )  # fmt: skip
    found = evaluation.report(records, out, args.attack, eps)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + '\n')
        return
    robust = found.pop('robust_accuracy')
    table = Table(title=f'{args.attack}: {out}')
    table.add_column('measure')
    table.add_column('value', justify='right')
    for name, value in found.items():
        table.add_row(name, '-' if value is None else f'{value:.4g}')
    for value, accuracy in robust.items():
        table.add_row(f'robust_accuracy@{value}', f'{accuracy:.4g}')
    Console(width=100).print(table)
