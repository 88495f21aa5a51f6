"""SGD, SmoothOut, AdaSmoothOut and SAM on digits and glyphs, small and large batches.

Every method gets the same number of epochs, the learning rate that suits plain SGD and as many
trials for its strength as SGD had for the learning rate, all judged on the validation split with
seeds of their own; the test split is read once per run of the study. Runs are kept as JSON under
the work dir, so the same command goes on after an interrupt.
"""

import argparse
import json
import sys
import time
from functools import cache
from pathlib import Path

import mmengine.runner.runner
import numpy as np
import torch
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from evidence import paired, summary, write_result  # noqa: E402
from sam import SAMClassifier  # noqa: E402

from mmext.engine import launch  # noqa: E402
from mmext.plugins.smoothout import SharpnessHook  # noqa: E402

SEEDS = [0, 1, 2, 3, 4]
TUNING_SEEDS = [100, 101]
METHODS = ('SGD', 'SmoothOut', 'AdaSmoothOut', 'SAM')
#: Training images, epochs, batch sizes: small, and large as (micro-batches, size of each).
DATA = {
    'digits': dict(images=192, epochs=25, small=(1, 16), large=(4, 16)),
    'glyphs': dict(images=1536, epochs=10, small=(1, 32), large=(4, 64)),
}
#: Tried on the validation split. Learning rates of large batches are larger by the square root of
#: the ratio of the batch sizes.
TRIALS = {
    'SGD': (0.01, 0.03, 0.1),
    'SmoothOut': (0.005, 0.015, 0.04),
    'AdaSmoothOut': (0.05, 0.15, 0.4),
    'SAM': (0.03, 0.1, 0.3),
}
MEASURE = dict(strength=0.01, draws=10, batches=2)


@cache
def items(name: str, split: str) -> list:
    """All samples of a split, packed once."""
    cfg = launch.load_config(str(ROOT / f'configs/smoothout/smoothout_c1_{name}.py'))
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    return [dataset[index] for index in range(len(dataset))]


def train(name, regime, method, lr, strength, seed, scale, work_dir, measure):
    """One training from scratch; returns accuracies and, if asked for, sharpness."""
    cfg = launch.load_config(str(ROOT / f'configs/smoothout/smoothout_c1_{name}.py'))
    plan = DATA[name]
    micro, size = plan[regime]
    images = max(int(plan['images'] * scale), 4 * size)
    epochs = max(int(plan['epochs'] * scale), 1)
    ratio = micro * size / plan['small'][1]

    def loader(samples, batch_size, shuffle):
        return dict(
            dataset=samples,
            batch_size=batch_size,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
        )

    hooks = []
    if 'SmoothOut' in method:
        adapt = 'filter' if method == 'AdaSmoothOut' else 'none'
        hooks = [
            dict(type='mmext.SmoothOutHook', strength=strength, adapt=adapt,
                 recalibrate_bn=images // size)
        ]  # fmt: skip
    held_out = {}
    for split in ('val', 'test'):
        every = items(name, split)
        held_out[split] = every[: int(len(every) * scale)]
    # Only whole updates, the same number for all methods.
    train_items = items(name, 'train')[: images // (micro * size) * micro * size]
    torch.manual_seed(seed)
    runner = Runner(
        model=cfg.model,
        work_dir=str(work_dir / 'runner'),
        train_dataloader=loader(train_items, size, True),
        val_dataloader=loader(held_out['val'], 200, False),
        test_dataloader=loader(held_out['test'], 200, False),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=10**6),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=cfg.val_evaluator,
        test_evaluator=cfg.test_evaluator,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=lr * ratio**0.5, momentum=0.9, weight_decay=1e-4),
            accumulative_counts=micro,
        ),
        param_scheduler=dict(
            type='CosineAnnealingLR', T_max=epochs, by_epoch=True, convert_to_iter_based=True
        ),
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=hooks,
        default_scope='mmpretrain',
        randomness=dict(seed=seed),
        log_level='ERROR',
        experiment_name=f'run{time.time_ns()}',
    )
    if method == 'SAM':
        runner.model.__class__ = SAMClassifier
        runner.model.rho = strength
    start = time.perf_counter()
    runner.train()
    found = {'minutes': (time.perf_counter() - start) / 60}
    found['val'] = runner.val_loop.run()['accuracy/top1']
    if measure:
        found['test'] = runner.test()['accuracy/top1']
        found |= SharpnessHook(**MEASURE).measure(runner)
    return found


class Study:
    """Runs that are made once."""

    def __init__(self, work_dir: Path, scale: float, minutes: float) -> None:
        self.work_dir, self.scale = work_dir, scale
        self.deadline = time.monotonic() + 60 * minutes
        work_dir.mkdir(parents=True, exist_ok=True)

    def run(self, name, regime, method, lr, strength, seed, measure=False) -> dict:
        """Result of one run, from its record if there is one."""
        record = self.work_dir / f'{name}-{regime}-{method}-{lr}-{strength}-{seed}.json'
        if record.exists():
            return json.loads(record.read_text())
        if time.monotonic() > self.deadline:
            print('time is up; the same command goes on')
            sys.exit(75)
        found = train(name, regime, method, lr, strength, seed, self.scale, self.work_dir, measure)
        draft = record.with_suffix('.tmp')
        draft.write_text(json.dumps(found))
        draft.replace(record)
        print(f'{record.stem}: ' + ', '.join(f'{k} {v:.4g}' for k, v in found.items()), flush=True)
        return found

    def tune(self, name, regime, seeds) -> tuple[float, dict[str, float]]:
        """Learning rate of SGD, then strength of each method at it; by validation accuracy."""

        def best(method, settings):
            scores = [
                np.mean([self.run(name, regime, method, *setting, seed)['val'] for seed in seeds])
                for setting in settings
            ]
            return settings[int(np.argmax(scores))]

        lr, _ = best('SGD', [(lr, 0.0) for lr in TRIALS['SGD']])
        strengths = {'SGD': 0.0}
        for method in METHODS[1:]:
            strengths[method] = best(method, [(lr, value) for value in TRIALS[method]])[1]
        return lr, strengths


def judge(rows: list[dict]) -> tuple[str, str]:
    """Verdict and reason from the paired differences to SGD."""
    by = {(row['setting'], row['method']): row['metrics'] for row in rows}
    settings = list(dict.fromkeys(row['setting'] for row in rows))
    parts, better, flatter = [], {}, {}
    for method in ('SmoothOut', 'AdaSmoothOut'):
        gains, drops = [], []
        for setting in settings:
            own, base = by[setting, method], by[setting, 'SGD']
            gain = np.subtract(own['test %']['values'], base['test %']['values'])
            points, error = paired(gain)
            gains.append((points, points > error))
            drops.append(all(own[key]['mean'] < base[key]['mean'] for key in ('C_eps', 'E[L]-L')))
        better[method] = sum(clear for _, clear in gains)
        flatter[method] = sum(drops)
        shown = ', '.join(f'{gain:+.2f}' for gain, _ in gains)
        parts.append(
            f'{method} against SGD in the four settings: {shown} points, more than one standard '
            f'error in {better[method]}; both sharpnesses lower in {flatter[method]}'
        )
    full = len(settings)
    if any(better[m] == flatter[m] == full for m in better):
        verdict = 'met'
    elif any(better[m] >= full / 2 for m in better):
        verdict = 'partly'
    else:
        verdict = 'not met'
    why = '. '.join(parts) + (
        '. Learning rate (SGD) and strengths (the others) had three trials each on the validation '
        'split; large batches are four micro-batches, each with noise of its own.'
    )
    return verdict, why


def main() -> None:
    """Tune, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a few iterations of each')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/smoothout')
    parser.add_argument('--out', type=Path, default=Path(__file__).resolve().parent / 'results')
    parser.add_argument('--minutes', type=float, default=float('inf'),
                        help='then exit with code 75; the same command goes on')  # fmt: skip
    args = parser.parse_args()
    mmengine.runner.runner.collect_env = dict  # asks compilers for their versions, each time
    torch.set_num_threads(1)
    seeds, tuning, data = SEEDS, TUNING_SEEDS, DATA
    if args.quick:
        seeds, tuning, data = [0], [100], {'digits': DATA['digits']}
        for method in METHODS:
            TRIALS[method] = TRIALS[method][:1]
    study = Study(args.work_dir / ('quick' if args.quick else 'generalisation'),
                  0.1 if args.quick else 1.0, args.minutes)  # fmt: skip
    rows = []
    for name in data:
        for regime in ('small', 'large'):
            lr, strengths = study.tune(name, regime, tuning)
            micro, size = DATA[name][regime]
            for method in METHODS:
                runs = []
                for seed in seeds:
                    runs.append(
                        study.run(name, regime, method, lr, strengths[method], seed, measure=True)
                    )
                metrics = {'test %': 'test', 'C_eps': 'keskar', 'E[L]-L': 'expected'}
                rows.append(
                    {
                        'method': method,
                        'setting': f'{name}, batch {micro * size}',
                        'metrics': {k: summary([r[v] for r in runs]) for k, v in metrics.items()},
                        'cost': {'minutes': float(np.mean([run['minutes'] for run in runs]))},
                        'lr': lr,
                        'strength': strengths[method],
                    }
                )
    verdict, why = judge(rows)
    if args.quick:
        verdict, why = 'not testable here', '--quick: a few iterations, only to see that it runs.'
    write_result(
        args.out / 'generalisation.json',
        claim='generalisation improves in small- and large-batch training, and minima are flatter',
        paper=None,
        command='make reproduce PLUGIN=smoothout',
        data={name: dict(plan, validation=len(items(name, 'val')), test=len(items(name, 'test')))
              for name, plan in data.items()},
        seeds=seeds,
        rows=rows,
        verdict=verdict,
        why=why,
    )  # fmt: skip


if __name__ == '__main__':
    main()
