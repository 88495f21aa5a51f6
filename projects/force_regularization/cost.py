"""What force and trained rank pruning add to a training step, in one interleaved run."""

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(ROOT / 'projects/force_regularization')]

from evidence import summary, write_result  # noqa: E402
from harness.grid import lighten  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from runs import METHODS, TITLES, build, read  # noqa: E402

import mmext  # noqa: E402, F401
from mmext.plugins.force_regularization.filter_hook import FilterHook  # noqa: E402

NETWORK = 'resnet20_glyphs'


def prepare(method: str, work: Path):
    """A function that makes one training step of ``method``."""
    cfg = read(NETWORK, method)
    cfg.train_dataloader.dataset.num_samples = 64
    runner = build(cfg, work / method, 0)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    batch = next(iter(runner.build_dataloader(cfg.train_dataloader)))
    for hook in runner.hooks:
        if isinstance(hook, FilterHook):
            hook.before_train(runner)
    return lambda: runner.model.train_step(batch, runner.optim_wrapper)


def main() -> None:
    """Measure and write results/cost.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=25)
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/force_regularization')
    parser.add_argument('--quick', action='store_true', help='2 rounds, no result file')
    args, _ = parser.parse_known_args()
    if args.quick:
        args.rounds = 2
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    lighten()
    init_default_scope('mmpretrain')
    steps = {method: prepare(method, args.work_dir / 'cost') for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(args.rounds + 2):
        for method, step in steps.items():
            # Time of this process: other programs on the machine do not count.
            began = time.process_time()
            step()
            if turn >= 2:
                seconds[method].append(time.process_time() - began)
    ratios = {
        method: [a / b for a, b in zip(times, seconds['plain'], strict=True)]
        for method, times in seconds.items()
    }
    median = {method: sorted(values)[len(values) // 2] for method, values in ratios.items()}
    more = {method: 100 * (value - 1) for method, value in median.items()}
    print({method: round(value, 3) for method, value in median.items()})
    if args.quick:
        return
    write_result(
        ROOT / 'projects/force_regularization/results/cost.json',
        claim='cost of the force: at most a fifth more time per training step',
        paper=None,
        command='python projects/force_regularization/cost.py',
        data={'set': 'glyphs', 'batch': '64 of 16 x 16', 'network': 'ResNet-20'},
        seeds=[0],
        rows=[
            {
                'method': TITLES[method],
                'setting': 'ResNet-20, batch 64, one CPU thread, processor time',
                'metrics': {'ms per step': summary([1000 * s for s in seconds[method]])},
                'cost': {'median ratio to plain': median[method]},
            }
            for method in METHODS
        ],
        verdict='met' if max(median['l1'], median['l2']) <= 1.2 else 'not met',
        why=f'the four take turns step by step; in the median of {args.rounds} rounds L1 adds '
        f'{more["l1"]:.0f} %, L2 {more["l2"]:.0f} % and TRP {more["trp"]:.0f} %.',
    )


if __name__ == '__main__':
    main()
