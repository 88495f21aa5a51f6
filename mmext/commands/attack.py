"""Attack an image classifier on the test data of its config.

Prints clean and robust accuracy, success, L2 distances, steps to the first success and passes, and
warns where gradients mislead. Writes attack.json, attack.tsv and attack.png (clean, adversarial,
difference), and leaderboard.html beside the output folder, from all results there. Images whose
record is in the output folder are not attacked again, so a killed run goes on where it stopped.

--attack standard is the one whose robust accuracy can be reported: APGD-CE, APGD-T, FMN and Square.

Examples:
  mmext attack path/to/config.py epoch_40.pth --attack guided_cw
  mmext attack path/to/config.py epoch_40.pth --attack standard --eps 0.0157 0.0314 --ranks 2
  mmext attack path/to/config.py epoch_40.pth --attack cw --save adversarial/
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from mmext.commands import options, ranks

#: Attack -> options that reach it.
OPTIONS = {
    'cw': ('steps', 'search_steps', 'lr', 'initial_const', 'kappa', 'warm_start'),
    'guided_cw': ('steps', 'search_steps', 'lr', 'initial_const', 'kappa'),
    'ddn': ('steps',),
    'fmn': ('steps',),
    'pgd': ('steps', 'norm', 'restarts'),
    'fgsm': ('norm',),
    'apgd_ce': ('steps', 'norm', 'restarts'),
    'apgd_t': ('steps', 'norm', 'restarts'),
    'square': ('queries', 'norm'),
    'standard': ('steps', 'norm', 'restarts', 'queries'),
}
L2 = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    options.add_config(parser)
    parser.add_argument('checkpoint', help='weights of the classifier')
    parser.add_argument('--attack', choices=tuple(OPTIONS), default='guided_cw')
    parser.add_argument(
        '--eps', type=float, nargs='+', metavar='EPS',
        help='budgets in [0, 1] of the range of pixels, for --norm l2 distances; cw, guided_cw, '
        'ddn and fmn: L2 distances at which to give the robust accuracy (default: '
        f'{" ".join(map(str, L2))})',
    )  # fmt: skip
    parser.add_argument('--steps', type=int, help='gradient steps (default: 100, pgd 20)')
    parser.add_argument('--search-steps', type=int, help='constants tried by CW (default: 9)')
    parser.add_argument(
        '--lr', type=float, help='learning rate of CW (default: 0.01, guided_cw: from each image)'
    )
    parser.add_argument(
        '--initial-const', type=float,
        help="CW's first constant (default: 0.001, guided_cw: from each image)",
    )  # fmt: skip
    parser.add_argument('--kappa', type=float, help='confidence of CW in logits (default: 0)')
    parser.add_argument(
        '--warm-start', action='store_true', default=None,
        help='cw: begin each constant where the last one ended',
    )  # fmt: skip
    parser.add_argument('--norm', choices=('linf', 'l2'), help='ball of a budget (default: linf)')
    parser.add_argument('--restarts', type=int, help='runs from random starts (default: 1)')
    parser.add_argument('--queries', type=int, help='forward passes of square (default: 5000)')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--seed', type=int, default=0, help='seed of random draws')
    parser.add_argument('--save', metavar='DIR', help='keep the adversarial images here')
    parser.add_argument(
        '--out', help='folder of the results (default: work_dirs/<config name>/<attack>)'
    )
    options.add_images(parser)
    options.add_ranks(parser)


def run(args: argparse.Namespace) -> None:
    """Attack as the command line says; exit with code 2 on mistakes in it."""
    with options.user_errors('mmext attack'):
        _options(args)
        ranks.start(args)
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
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
    from mmengine.dist import get_dist_info
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from mmext import launch
    from mmext.attacks import evaluation
    from mmext.attacks.adversarial import build_test_dataset, load_classifier
    from mmext.attacks.load_adversarial_image import write_index
    from mmext.attacks.suite import IN_BALL
    from mmext.compat import distributed
    from mmext.launch.records import sha256

    options.check_images(args)
    settings_of_attack = _options(args)
    budgeted = args.attack in IN_BALL
    eps = tuple(args.eps or (() if budgeted else L2))
    cfg = launch.load_config(args.config, args.cfg_options, checkpoint=args.checkpoint)
    with contextlib.redirect_stdout(sys.stderr):  # stdout has the results alone
        distributed.setup(cfg, args.launcher, training=False)
    rank, world = get_dist_info()
    model = load_classifier(cfg, args.checkpoint, args.device or get_device())
    dataset = build_test_dataset(cfg)
    indices = range(0, len(dataset), args.skip)[: args.max]
    out = Path(args.out or f'work_dirs/{Path(args.config).stem}/{args.attack}')
    settings = {'config': args.config, 'checkpoint_sha256': sha256(args.checkpoint)}
    save = Path(args.save) if args.save else None
    if save is not None:
        write_index(save, {**settings, 'attack': args.attack, 'options': settings_of_attack})
    with Progress(console=Console(stderr=True), disable=rank > 0) as progress:
        own = len(indices) if world == 1 else None
        task = progress.add_task(f'{args.attack} images', total=own)
        records = evaluation.attack_dataset(
            model, dataset, indices, out, attack=args.attack, options=settings_of_attack,
            eps=eps if budgeted else (), batch_size=args.batch_size, bounds=tuple(args.bounds),
            save=save, settings=settings, seed=args.seed,
            on_batch=lambda count: progress.advance(task, count), rank=rank, ranks=world,
        )  # fmt: skip
    if rank:
        return
    norm = settings_of_attack.get('norm', 'linf') if budgeted else 'l2'
    found = evaluation.report(records, out, args.attack, eps, {**settings, 'norm': norm})
    for warning in found['warnings']:
        sys.stderr.write(f'mmext attack: warning: {warning}\n')
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + '\n')
        return
    robust = found.pop('robust_accuracy')
    found |= {f'broken by {part}': count for part, count in found.pop('broken_by', {}).items()}
    table = Table(title=f'{args.attack}: {out}')
    table.add_column('measure')
    table.add_column('value', justify='right')
    for name in ('attack', 'warnings', 'norm', *settings):
        found.pop(name)
    for name, value in found.items():
        table.add_row(name, '-' if value is None else f'{value:.4g}')
    for value, accuracy in robust.items():
        table.add_row(f'robust_accuracy@{value}', f'{accuracy:.4g}')
    Console(width=100).print(table)
