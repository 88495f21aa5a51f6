"""Iteration time and memory of CST against MMDetection's mean teacher, in one interleaved run.

Same detector, same batches (labelled and unlabelled images per step), full unsupervised losses. The
two take turns, so a machine that slows down slows both.
"""

import copy
import itertools
import os
import statistics
import sys
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

from benchmark import afresh, clocked, in_turns, options, peak_mib  # noqa: E402
from evidence import row, write_result  # noqa: E402

from mmext.datasets.scenes import SceneSettings, generate  # noqa: E402
from mmext.plugins.cst.functional import ema_update  # noqa: E402

METHODS = ('mean teacher', 'CST', 'CST, sequential backward', 'CST, split batch')


def configuration(scenes: Path):
    """Config of the demo, without its backbone."""
    cfg = Config.fromfile(ROOT / 'configs/cst/cst_fcos_r18_digits.py')
    cfg.model.detector.backbone.init_cfg = None
    for source in cfg.train_dataloader.dataset.datasets:
        source.data_root = f'{scenes}/'
    return cfg


def build(method: str, cfg):
    """Model, optimizer wrapper and two training batches, again and again, of one method."""
    cfg = copy.deepcopy(cfg)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    # Untrained: take some boxes anyway, as a trained teacher would find.
    detector = cfg.model.detector
    detector.test_cfg.get('rcnn', detector.test_cfg).update(score_thr=0.0, max_per_img=3)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    model_cfg = cfg.model
    model_cfg.semi_train_cfg.update(
        score_thr=0.0,
        ignore_score_thr=None,
        sequential_backward='sequential' in method,
        split_batch='split' in method,
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
    return model, build_optim_wrapper(model, cfg.optim_wrapper), itertools.cycle(batches)


def step(model, wrapper, batches) -> None:
    """One training step with the moving averages."""
    model.train_step(copy.deepcopy(next(batches)), wrapper)
    pairs = [(model.teacher, model.student)] if hasattr(model, 'student') else zip(
        model.teachers, model.students, strict=True
    )  # fmt: skip
    for teacher, student in pairs:
        ema_update(teacher, student, 0.004)


def memory_of(method: str, scenes: Path) -> float:
    """Memory that training adds to this process, which has built nothing yet, in MiB."""
    import mmdet.models  # noqa: F401
    import mmpretrain.models  # noqa: F401

    torch.set_num_threads(1)
    # Linux forgets the peak of the imports, and what is resident now counts from here.
    Path('/proc/self/clear_refs').write_text('5')
    before = peak_mib()
    parts = build(method, configuration(scenes))
    for _ in range(4):
        step(*parts)
    return peak_mib() - before


def main() -> None:
    """Measure and write results/cost.json."""
    args = options(__doc__, scenes=ROOT / 'data/digit_scenes')
    os.chdir(ROOT)
    torch.set_num_threads(1)
    # Makes them unless they are there.
    generate(args.scenes, SceneSettings(train=200, folds=1) if args.quick else SceneSettings())
    cfg = configuration(args.scenes)
    calls = {method: clocked(partial(step, *build(method, cfg))) for method in METHODS}
    seconds = in_turns(calls, rounds=3 if args.quick else 12, warm_up=2)
    memory = {method: afresh(memory_of, method, args.scenes) for method in METHODS}
    rows = [
        row(method, 'FCOS R18, one CPU thread', {'s/iteration': seconds[method]},
            cost={'MiB': memory[method]})
        for method in METHODS
    ]  # fmt: skip
    for method in METHODS[1:]:
        ratios = [a / b for a, b in zip(seconds[method], seconds['mean teacher'], strict=True)]
        cost = {
            'median time ratio': statistics.median(ratios),
            'memory ratio': memory[method] / memory['mean teacher'],
        }
        name, setting = f'{method} / mean teacher', 'pairs of neighbouring steps'
        rows.append(row(name, setting, {'time ratio': ratios}, cost=cost))
        print('{}: time x{:.2f}, memory x{:.2f}'.format(name, *cost.values()))
    if args.quick:
        return
    time, more = rows[len(METHODS)]['cost'].values()
    split = rows[-1]['cost']['median time ratio']
    write_result(
        ROOT / 'projects/cst/results/cost.json',
        claim='cost against a mean teacher: at most 2.3x the iteration time and 2x the memory, and '
        '1.15x the time with split batches',
        command='make reproduce PLUGIN=cst',
        data={
            'set': 'digit scenes',
            'batch': '4 labelled (for each student) + 8 unlabelled, 80 px',
        },
        rows=rows,
        verdict='met' if time <= 2.3 and more <= 2 and split <= 1.15 else 'not met',
        why='the two take turns step by step in one process; memory is the growth of the resident '
        'set of a process that trains one of them.',
    )


if __name__ == '__main__':
    main()
