"""SGD, SmoothOut, AdaSmoothOut and SAM on digits and glyphs, small and large batches.

Every method gets the same number of epochs, the learning rate that suits plain SGD and as many
trials for its strength as SGD had for the learning rate, all judged on the validation split with
seeds of their own; the test split is read once per run of the study.
"""

import sys
import time
from functools import cache
from pathlib import Path

import mmpretrain.models  # noqa: F401
import numpy as np
import torch
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from evidence import paired  # noqa: E402
from harness.grid import Run  # noqa: E402
from harness.report import Found  # noqa: E402
from harness.study import Arm, Rule, Search, Setting, Study  # noqa: E402

from mmext import launch  # noqa: E402
from mmext.plugins.smoothout import SharpnessHook  # noqa: E402

#: Training images, epochs, batch sizes: small, and large as (micro-batches, size of each).
DATA = {
    'digits': dict(images=192, epochs=25, small=(1, 16), large=(4, 16)),
    'glyphs': dict(images=1536, epochs=10, small=(1, 32), large=(4, 64)),
}
#: Method -> values tried on the validation split: learning rates of SGD, strengths of the others.
#: Learning rates of large batches are larger by the square root of the ratio of the batch sizes.
TRIALS = {
    'SGD': (0.01, 0.03, 0.1),
    'SmoothOut': (0.005, 0.015, 0.04),
    'AdaSmoothOut': (0.05, 0.15, 0.4),
    'SAM': (0.03, 0.1, 0.3),
}
MEASURE = dict(strength=0.01, draws=10, batches=2)


def config(name: str) -> Path:
    """Shipped config of a data set."""
    return ROOT / f'configs/smoothout/smoothout_c1_{name}.py'


@cache
def items(name: str, split: str) -> list:
    """All samples of a split, packed once."""
    cfg = launch.load_config(str(config(name)))
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    return [dataset[index] for index in range(len(dataset))]


def train(run: Run) -> dict:
    """One training from scratch; accuracy, and in a run that counts the sharpness."""
    name, regime = run.setting.options['data'], run.setting.options['regime']
    method, strength = run.arm.name, run.values.get('strength', 0.0)
    scale = 0.1 if run.quick else 1.0
    cfg = launch.load_config(str(config(name)))
    plan = DATA[name]
    micro, size = plan[regime]
    images = max(int(plan['images'] * scale), 4 * size)
    epochs = max(int(plan['epochs'] * scale), 1)
    ratio = micro * size / plan['small'][1]

    def loader(samples, batch_size, shuffle):
        return dict(
            dataset=samples, batch_size=batch_size, num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
        )  # fmt: skip

    hooks = run.speed_hooks()
    if 'SmoothOut' in method:
        adapt = 'filter' if method == 'AdaSmoothOut' else 'none'
        hook = dict(type='mmext.SmoothOutHook', strength=strength, recalibrate_bn=images // size)
        hooks.append(hook | dict(adapt=adapt))
    elif method == 'SAM':
        hooks.append(dict(type='mmext.SAMHook', rho=strength))
    held_out = {}
    for split in ('val', 'test'):
        every = items(name, split)
        held_out[split] = every[: int(len(every) * scale)]
    # Only whole updates, the same number for all methods.
    train_items = items(name, 'train')[: images // (micro * size) * micro * size]
    lr = run.values['lr'] * ratio**0.5
    optimizer = dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-4)
    schedule = dict(type='CosineAnnealingLR', T_max=epochs, convert_to_iter_based=True)
    torch.manual_seed(run.seed)
    runner = Runner(
        model=cfg.model,
        work_dir=str(run.folder),
        train_dataloader=loader(train_items, size, True),
        val_dataloader=loader(held_out['val'], 200, False),
        test_dataloader=loader(held_out['test'], 200, False),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=10**6),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=cfg.val_evaluator,
        test_evaluator=cfg.test_evaluator,
        optim_wrapper=dict(optimizer=optimizer, accumulative_counts=micro),
        param_scheduler=schedule,
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=hooks,
        default_scope='mmpretrain',
        randomness=dict(seed=run.seed),
        log_level='ERROR',
    )
    start = time.perf_counter()
    runner.train()
    found = {'minutes': (time.perf_counter() - start) / 60}
    evaluate = runner.val_loop.run if run.split == 'val' else runner.test
    found['accuracy'] = evaluate()['accuracy/top1']
    if run.split == 'test':
        found |= SharpnessHook(**MEASURE).measure(runner)
    return found


def metrics(record: dict) -> dict[str, float]:
    """Accuracy and, of runs that count, the two sharpnesses."""
    names = {'test %': 'accuracy', 'C_eps': 'keskar', 'E[L]-L': 'expected'}
    return {name: record[key] for name, key in names.items() if key in record}


def judge(found: Found) -> tuple[str, str]:
    """Verdict and reason from the paired differences to SGD."""
    settings = [setting.name for setting in found.study.settings]
    parts, better, flatter = [], {}, {}
    for method in ('SmoothOut', 'AdaSmoothOut'):
        gains = [paired(found.difference(method, 'SGD', setting=s).values) for s in settings]
        better[method] = sum(points > error for points, error in gains)
        flatter[method] = sum(
            all(found.mean(method, key, s) < found.mean('SGD', key, s) for key in SHARPNESS)
            for s in settings
        )
        shown = ', '.join(f'{gain:+.2f}' for gain, _ in gains)
        parts.append(
            f'{method} against SGD in the four settings: {shown} points, more than one standard '
            f'error in {better[method]}; both sharpnesses lower in {flatter[method]}'
        )
    full = len(settings)
    met = any(better[m] == flatter[m] == full for m in better)
    verdict = 'met' if met else 'partly' if max(better.values()) >= full / 2 else 'not met'
    return verdict, '. '.join(parts) + (
        '. Learning rate (SGD) and strengths (the others) had three trials each on the validation '
        'split; large batches are four micro-batches, each with noise of its own.'
    )


SHARPNESS = ('C_eps', 'E[L]-L')
STUDY = Study(
    name='generalisation',
    script=__file__,
    claim='generalisation improves in small- and large-batch training, and minima are flatter',
    paper=None,
    command='make reproduce PLUGIN=smoothout',
    data=lambda work, quick: {
        name: dict(plan, validation=len(items(name, 'val')), test=len(items(name, 'test')))
        for name, plan in DATA.items()
    },
    arms=tuple(Arm(name, name) for name in TRIALS),
    settings=tuple(
        Setting(f'{name}-{regime}', f'{name}, batch {int(np.prod(plan[regime]))}',
                dict(data=name, regime=regime))
        for name, plan in DATA.items()
        for regime in ('small', 'large')
    ),
    seeds=(0, 1, 2, 3, 4),
    search_seeds=(100, 101),
    searches=(
        Search('lr', tuple(TRIALS), TRIALS['SGD']),
        *(Search('strength', (name,), TRIALS[name]) for name in TRIALS if name != 'SGD'),
    ),
    train=train,
    metrics=metrics,
    metric='test %',
    costs={'minutes': 'minutes'},
    sources=(items, *map(config, DATA)),
    rule=Rule(
        'met: SmoothOut or AdaSmoothOut is ahead of SGD by more than one standard error of the '
        'paired differences in all settings, with both sharpnesses lower in all; partly: ahead so '
        'in half of the settings',
        judge,
        compare=(('SmoothOut', 'SGD'), ('AdaSmoothOut', 'SGD'), ('SAM', 'SGD')),
        smallest_effect=0.3,
    ),
    quick_settings=('digits-small', 'digits-large'),
)  # fmt: skip

if __name__ == '__main__':
    STUDY.main()
