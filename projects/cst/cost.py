"""Iteration time and memory of CST against MMDetection's mean teacher, in one interleaved run.

Same detector, same batches (labelled and unlabelled images per step), full unsupervised losses. The
two take turns, so a machine that slows down slows both.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

from evidence import summary, write_result  # noqa: E402

import mmext  # noqa: E402, F401
from mmext.datasets.scenes import SceneSettings, generate  # noqa: E402

METHODS = ('mean teacher', 'CST', 'CST, sequential backward')


def configuration(scenes: Path):
    """Config of the demo, without its backbone."""
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / 'configs/cst/cst_fcos_r18_digits.py')
    cfg.model.detector.backbone.init_cfg = None
    for source in cfg.train_dataloader.dataset.datasets:
        source.data_root = f'{scenes}/'
    return cfg


def build(method: str, cfg):
    """Model, optimizer wrapper and two training batches of one method."""
    from mmengine.config import ConfigDict
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import Runner

    cfg = copy.deepcopy(cfg)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    # Untrained: take some boxes anyway, as a trained teacher would find.
    detector = cfg.model.detector
    detector.test_cfg.get('rcnn', detector.test_cfg).update(score_thr=0.0, max_per_img=3)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    model_cfg = cfg.model
    model_cfg.semi_train_cfg.update(
        score_thr=0.0, ignore_score_thr=None, sequential_backward='sequential' in method
    )
    if method == 'mean teacher':
        model_cfg = dict(
            type='SemiBaseDetector',
            detector=cfg.model.detector,
            semi_train_cfg=dict(cls_pseudo_thr=0.0, min_pseudo_bbox_wh=(1e-2, 1e-2)),
            semi_test_cfg=dict(predict_on='teacher'),
            data_preprocessor=cfg.model.data_preprocessor,
        )
    model = MODELS.build(ConfigDict(model_cfg))
    model.init_weights()
    model.train()
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batches = [batch for batch, _ in zip(loader, range(2), strict=False)]
    if method == 'mean teacher':
        for batch in batches:
            for part in batch.values():
                part['sup'] = part.pop('sup_student1')
                part['unsup_student'] = part.pop('unsup_student1')
                del part['sup_student2'], part['unsup_student2']
    return model, build_optim_wrapper(model, cfg.optim_wrapper), batches


def step(model, wrapper, batches, index: int) -> None:
    """One training step with the moving averages."""
    from mmext.plugins.cst.functional import ema_update

    model.train_step(copy.deepcopy(batches[index % len(batches)]), wrapper)
    pairs = [(model.teacher, model.student)] if hasattr(model, 'student') else zip(
        model.teachers, model.students, strict=True
    )  # fmt: skip
    for teacher, student in pairs:
        ema_update(teacher, student, 0.004)


def peak_mib(method: str, scenes: Path) -> float:
    """Memory that training adds to a process that has built nothing yet, in MiB."""
    command = [sys.executable, __file__, '--memory-of', method, '--scenes', str(scenes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure_memory(method: str, scenes: Path) -> None:
    """Child process of :func:`peak_mib`: growth of the largest resident set, in MiB."""
    import mmdet.models  # noqa: F401
    import mmpretrain.models  # noqa: F401

    # Linux forgets the peak of the imports, and what is resident now counts from here.
    Path('/proc/self/clear_refs').write_text('5')
    before = largest_resident_set()
    model, wrapper, batches = build(method, configuration(scenes))
    for index in range(4):
        step(model, wrapper, batches, index)
    print(largest_resident_set() - before)


def largest_resident_set() -> float:
    """Peak resident set of this process, in MiB."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024


def main() -> None:
    """Measure and write results/cost.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=12)
    parser.add_argument('--quick', action='store_true', help='3 rounds, no result file')
    parser.add_argument('--scenes', type=Path, default=ROOT / 'data/digit_scenes')
    parser.add_argument('--memory-of', choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if args.memory_of:
        measure_memory(args.memory_of, args.scenes)
        return
    # Makes them unless they are there.
    generate(args.scenes, SceneSettings(train=200, folds=1) if args.quick else SceneSettings())
    rounds = 3 if args.quick else args.rounds
    cfg = configuration(args.scenes)
    parts = {method: build(method, cfg) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for index in range(rounds + 2):
        for method, (model, wrapper, batches) in parts.items():
            began = time.perf_counter()
            step(model, wrapper, batches, index)
            if index >= 2:
                seconds[method].append(time.perf_counter() - began)
    once, sequential = (
        [a / b for a, b in zip(seconds[method], seconds['mean teacher'], strict=True)]
        for method in METHODS[1:]
    )
    memory = {method: peak_mib(method, args.scenes) for method in METHODS}
    ratio, more = statistics.median(once), memory['CST'] / memory['mean teacher']
    saved = memory[METHODS[2]] / memory['mean teacher']
    print(f'time x{ratio:.2f} (of {len(once)} pairs), memory x{more:.2f}, sequential x{saved:.2f}')
    if args.quick:
        return
    write_result(
        ROOT / 'projects/cst/results/cost.json',
        claim='cost against a mean teacher: at most 2.3x the iteration time and 2x the memory',
        paper=None,
        command='make reproduce PLUGIN=cst',
        data={
            'set': 'digit scenes',
            'batch': '4 labelled (for each student) + 8 unlabelled, 80 px',
        },
        seeds=[0],
        rows=[
            {
                'method': method,
                'setting': 'FCOS R18, one CPU thread',
                'metrics': {'s/iteration': summary(seconds[method])},
                'cost': {'MiB': memory[method]},
            }
            for method in METHODS
        ]
        + [
            {
                'method': f'{method} / mean teacher',
                'setting': 'pairs of neighbouring steps',
                'metrics': {'time ratio': summary(ratios)},
                'cost': {
                    'median time ratio': statistics.median(ratios),
                    'memory ratio': memory[method] / memory['mean teacher'],
                },
            }
            for method, ratios in zip(METHODS[1:], (once, sequential), strict=True)
        ],
        verdict='met' if ratio <= 2.3 and more <= 2 else 'not met',
        why='the two take turns step by step in one process; memory is the growth of the resident '
        'set of a process that trains one of them.',
    )


if __name__ == '__main__':
    main()
