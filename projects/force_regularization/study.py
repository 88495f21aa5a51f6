"""Low-rank networks from training with force, without, and with trained rank pruning.

For each seed: train, decompose at 95 % energy, fine-tune by the schedule of the training; and the
plain network decomposed to the ranks of the L2 one, so that fine-tuning is compared at equal cost.
Strengths are those of the configs, which were tuned on the validation split (``--tune``); results
are on the test split.
"""

import copy
import os
import sys
import time
import warnings
from pathlib import Path

import mmpretrain.models  # noqa: F401
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(HERE)]

from harness.grid import Run  # noqa: E402
from harness.report import Found, figure  # noqa: E402
from harness.session import main  # noqa: E402
from harness.study import Arm, Rule, Search, Setting, Study  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from runs import METHODS, TITLES, accuracy, build, finetune, images_of, path, read  # noqa: E402

import mmext  # noqa: E402, F401
from mmext.plugins.force_regularization import Report, decompose  # noqa: E402
from mmext.plugins.force_regularization.deploy import (  # noqa: E402
    export_onnx,
    low_rank_config,
    onnx_ms,
)

ENERGY = 0.95
NETWORKS = {'resnet20_glyphs': 'ResNet-20, glyphs', 'lenet_digits': 'LeNet, digits'}
SHIPPED = 'that of the config'
# Digits take 15 times fewer steps than MNIST's LeNet, whose published strength is 1e-3.
STRENGTHS = {
    'resnet20_glyphs': {
        'l2': (3e-4, 3.5e-4, 1e-3),
        'l1': (3e-4, 3.5e-4, 1e-3),
        'trp': (3e-4, 1e-3, 3e-3),
    },
    'lenet_digits': {
        'l2': (3e-3, 1e-2, 3e-2),
        'l1': (3e-3, 1e-2, 3e-2),
        'trp': (3e-4, 1e-3, 3e-3),
    },
}


def configure(run: Run) -> Config:
    """Config of a run: shipped, with another strength in a search, short if quick."""
    cfg = read(run.setting.name, 'plain' if run.arm.name == 'plain-as-l2' else run.arm.name)
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), *run.speed_hooks()]
    strength = run.values.get('strength', SHIPPED)
    for hook in cfg.custom_hooks:
        for key in {'strength', 'nuclear_weight'} & set(hook):
            if strength != SHIPPED:
                hook[key] = strength
    if run.quick:
        cfg.train_dataloader.dataset.indices = 128
        cfg.val_dataloader.dataset.indices = cfg.test_dataloader.dataset.indices = 40
        cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = 1
        for scheduler in cfg.param_scheduler:
            scheduler.T_max = 1
    return cfg


def trained(cfg: Config, run: Run, weights: Path):
    """Runner with a trained model and the minutes it took; resumes by the file of the weights."""
    runner = build(cfg, run.folder, run.seed)
    if weights.exists():
        state = torch.load(weights)
        runner.model.load_state_dict(state['model'])
        return runner, state['minutes']
    began = time.process_time()
    runner.train()
    minutes = (time.process_time() - began) / 60
    draft = weights.with_suffix('.tmp')
    torch.save({'model': runner.model.state_dict(), 'minutes': minutes}, draft)
    os.replace(draft, weights)
    return runner, minutes


def latencies(model, images, folder: Path, onnx: bool) -> dict:
    """Forms for deployment, in milliseconds for one image on one thread."""
    found = {}
    # Ranks that are multiples of 8, and pairs only where they are measured to be faster.
    tuned = decompose(copy.deepcopy(model), ENERGY, inputs=images, faster_only=True, rounds=30)
    found['round 8, faster only'] = [tuned.ms_before, tuned.ms]
    last = images.contiguous(memory_format=torch.channels_last)
    wide = copy.deepcopy(model).to(memory_format=torch.channels_last)
    channels = decompose(wide, ENERGY, inputs=last, faster_only=True, rounds=30)
    found['the same, channels last'] = [channels.ms_before, channels.ms]
    if onnx:
        low = copy.deepcopy(model)
        decompose(low, ENERGY, inputs=images, faster_only=True, rounds=10)
        models = {
            'before': export_onnx(model, images, folder / 'before.onnx'),
            'after': export_onnx(low, images, folder / 'after.onnx'),
        }
        ms = onnx_ms(models, images, 50)
        found['the same, onnxruntime'] = [ms['before'], ms['after']]
    return found


def train(run: Run) -> dict:
    """Train, decompose and fine-tune; ``plain-as-l2`` takes the plain weights and L2's ranks."""
    warnings.simplefilter('ignore')
    init_default_scope('mmpretrain')
    cfg = configure(run)
    plain = run.before.get('plain')
    weights = (run if plain is None else plain).folder / 'trained.pth'
    runner, minutes = trained(cfg, run, weights)
    model, images = runner.model.eval(), images_of(cfg)
    record = {'dense': accuracy(runner, model, run.split), 'minutes': minutes}
    goal: dict = {'energy': ENERGY, 'round_to': 1}
    if plain is not None:
        goal = {'ranks': run.before['l2'].read()['ranks']}
    elif run.split == 'test':
        onnx = run.seed == 0 and not run.quick
        record['latency'] = latencies(model, images, run.folder, onnx)
    report: Report = decompose(model, inputs=images, rounds=30, **goal)
    record |= {
        'ranks': report.ranks,
        'layers': {layer.name: [layer.rank, layer.full_rank] for layer in report.layers},
        'macs': [report.macs_before, report.macs],
        'params': [report.params_before, report.params],
        'ms': [report.ms_before, report.ms],
        'lra': accuracy(runner, model, run.split),
    }
    low = low_rank_config(cfg, report, '', lr_scale=1.0)
    per_epoch = len(runner.train_dataloader)
    tuned, curve = finetune(low, model, run.folder / 'tuned', run.seed, max(per_epoch // 4, 1))
    finetuned = accuracy(tuned, tuned.model, run.split)
    return record | {'finetuned': finetuned, 'curve': curve.accuracy}


def metrics(record: dict) -> dict[str, float]:
    """Accuracies in percent and what the decomposition saves."""
    ratios = {'fewer MACs x': 'macs', 'smaller x': 'params', 'faster x': 'ms'}
    pairs = {name: record[key] for name, key in ratios.items()}
    pairs |= {f'faster x ({name})': pair for name, pair in record.get('latency', {}).items()}
    return {
        'dense %': record['dense'],
        'after LRA %': record['lra'],
        'fine-tuned %': record['finetuned'],
        **{name: before / after for name, (before, after) in pairs.items()},
    }


def judge(found: Found) -> tuple[str, str]:
    """Verdict on the goal, by the better of the two forces.

    Accuracy is compared with the plain network after as much training, fine-tuning included.
    """
    mean = found.mean
    best = max(
        ('l1', 'l2'),
        key=lambda arm: (round(mean(arm, 'fewer MACs x'), 2), mean(arm, 'fine-tuned %')),
    )
    macs, plain = mean(best, 'fewer MACs x'), mean('plain', 'fewer MACs x')
    tuned = mean(best, 'fine-tuned %')
    drop, early = mean('plain', 'fine-tuned %') - tuned, mean('plain', 'dense %') - tuned
    met = [macs >= 2.5, drop <= 1, plain <= 1.5]
    verdict = 'met' if all(met) else 'partly' if macs > 1.2 * plain and drop <= 2 else 'not met'
    same = [mean(arm, 'fine-tuned %') for arm in ('plain-as-l2', 'l2')]
    why = (
        f'{TITLES[best]}: {macs:.2f}x fewer MACs, where plain LRA reaches {plain:.2f}x. Points '
        f'lost after fine-tuning: {drop:.2f} to the plain network trained as long in all, '
        f'{early:.2f} to it before fine-tuning. At the ranks of L2 force the plain network ends '
        f'with {same[0]:.1f} %, that of L2 force with {same[1]:.1f} %. One forward is '
        f'{mean(best, "faster x"):.2f}x as fast on this CPU (one thread, one image).'
    )
    return verdict, why


def draw(result: dict, folder: Path, name: str) -> None:
    """Ranks (mean over the seeds) beside validation accuracy while fine-tuning."""
    with figure(folder / f'{name}.png', columns=2, size=(5, 3.6)) as (left, right):
        for index, row in enumerate(result['rows']):
            colour = f'C{index}'
            shares = [
                [(rank or full) / full for rank, full in layers.values()] for layers in row['ranks']
            ]
            if 'ranks' not in row['method']:
                left.plot(np.mean(shares, 0), color=colour, marker='.', label=row['method'])
            steps = [step for step, _ in row['curves'][0]]
            values = np.array([[value for _, value in curve] for curve in row['curves']])
            mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0
            right.plot(steps, mean, color=colour, marker='.', label=row['method'])
            right.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15)
        left.set(xlabel='convolution, from the input', ylabel='rank / full rank', ylim=(0, 1.05))
        left.set_title('rank at 95 % energy (1: kept whole)', fontsize=10)
        right.set(xlabel='iteration of fine-tuning', ylabel='validation accuracy (%)')
        right.set_title('fine-tuning after decomposition', fontsize=10)
        for axes in (left, right):
            axes.legend(fontsize=8)


def data(network: str) -> dict:
    """The three splits, as the config has them."""
    cfg = read(network, 'plain')
    return {
        name: {key: value for key, value in cfg[f'{name}_dataloader'].dataset.to_dict().items()
               if key not in ('pipeline', '_scope_')}
        for name in ('train', 'val', 'test')
    }  # fmt: skip


def study(network: str) -> Study:
    """The study of one network."""
    return Study(
        name=network,
        script=__file__,
        claim=f'{NETWORKS[network]}: force regularization leaves far lower ranks at the same '
        'accuracy (goal: 2.5x fewer MACs at 1 point, where plain LRA has at most 1.5x)',
        paper='ResNet-20 on CIFAR-10: 2.87x against 1.09x, error 9.57 against 8.82 %',
        data=lambda work, quick: data(network),
        arms=(
            *(Arm(method, TITLES[method]) for method in METHODS),
            Arm('plain-as-l2', TITLES['plain-as-l2'], after=('plain', 'l2')),
        ),
        settings=(
            Setting(network, f'{NETWORKS[network]}; LRA at {100 * ENERGY:g} % energy'),
        ),
        seeds=(0, 1, 2),
        searches=tuple(
            Search('strength', (arm,), trials, default=SHIPPED, fixed=True)
            for arm, trials in STRENGTHS[network].items()
        ),
        search_seeds=(9,),
        train=train,
        metrics=metrics,
        metric='fine-tuned %',
        costs={'CPU minutes of training': 'minutes'},
        more=lambda records: {
            'ranks': [record['layers'] for record in records],
            'curves': [record['curve'] for record in records],
        },
        sources=(HERE / 'runs.py', configure, trained, latencies,
                 *(path(network, method) for method in METHODS)),
        rule=Rule(
            'met: the better force leaves at least 2.5x fewer MACs and loses at most 1 point '
            'to the plain network after as much training, where plain LRA reaches at most 1.5x; '
            'partly: 1.2x as many as plain LRA at 2 points or less',
            judge,
            compare=(('l1', 'plain'), ('l2', 'plain'), ('l2', 'plain-as-l2'), ('l2', 'trp')),
            smallest_effect=1.0,
        ),
        draw=lambda result, folder, found: draw(result, folder, network),
        quick_arms=('plain', 'l2', 'plain-as-l2'),
    )  # fmt: skip


STUDIES = tuple(map(study, ('lenet_digits', 'resnet20_glyphs')))
CHOOSE = 'network'

if __name__ == '__main__':
    main(*STUDIES, choose=CHOOSE)
