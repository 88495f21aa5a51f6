"""Does CST beat the best baseline by the paper's margin when labels are scarce?

Every method trains the detector of the demo's config on the demo's scenes: same backbone, views,
optimizer, schedule, burn-in and ignore band. Seed s labels fold s + 1 of the scenes. Thresholds are
tuned on the validation split, separately for mean teachers and for CST (``--tune``, before the
study); the table is of the test split. Runs resume from their checkpoints, and finished ones are
skipped; the same command started twice shares the work.
"""

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(HERE)]

METHODS = {
    'supervised': 'supervised',
    'supervised_2x': 'supervised, 2x iterations',
    'mean_teacher': 'mean teacher',
    'soft_teacher': 'Soft Teacher (its background weighting)',
    'mean_teacher_2x': 'mean teacher, 2x iterations',
    'two_teachers': 'two mean teachers (CST without the cycle)',
    'cst_none': 'CST without reweighting',
    'cst_js': 'CST, js',
    'cst_exp_kl': 'CST, exp_kl',
    'cst_score': 'CST, score',
}
TUNED = {'mean teacher': 'mean_teacher', 'CST': 'cst_none'}
STEPS = (-0.1, 0.0, 0.1)
#: Labelled share -> weight of the unsupervised loss, for all methods; the config's elsewhere.
UNSUP_WEIGHT = {10: 1.0}


def family(method: str) -> str | None:
    """Whose threshold a method takes."""
    if method.startswith('supervised'):
        return None
    return 'CST' if method.startswith('cst') else 'mean teacher'


def build(method: str, settings: argparse.Namespace, percent: float, seed: int, score_thr: float):
    """Config of one run."""
    from mmext.engine import launch

    semi = family(method) is not None
    name = 'cst' if semi else 'supervised'
    cfg = launch.load_config(str(ROOT / f'configs/cst/{name}_fcos_r18_digits.py'))
    cfg.randomness = dict(seed=seed)
    if semi and percent in UNSUP_WEIGHT:
        cfg.model.semi_train_cfg.unsup_weight = UNSUP_WEIGHT[percent]
    networks = ['teacher1', 'teacher2', 'ensemble']
    if method == 'two_teachers':
        import baselines  # noqa: F401

        cfg.model.type = 'StudyTwoMeanTeachers'
    if method.startswith('cst') or method == 'two_teachers':
        kind = 'none' if method == 'two_teachers' else method.removeprefix('cst_')
        cfg.model.consistency.kind = kind
        cfg.model.semi_train_cfg.score_thr = score_thr
        cfg.val_cfg.networks = [cfg.model.semi_test_cfg.predict_on]
    elif semi:
        to_mean_teacher(cfg, method, score_thr)
        networks = ['teacher', 'student']
    if method.endswith('_2x'):
        double(cfg)
    fold = f'.{seed + 1}@{percent:g}'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.data_root = f'{settings.scenes}/'
            dataset.ann_file = re.sub(r'\.\d+@\d+(\.\d+)?(?=-|\.json)', fold, dataset.ann_file)
    for evaluator, split in ((cfg.val_evaluator, 'val'), (cfg.test_evaluator, 'test')):
        evaluator.ann_file = f'{settings.scenes}/annotations/instances_{split}.json'
    detector = cfg.model.get('detector', cfg.model)
    if settings.quick:
        shrink(cfg, detector)
    cfg.train_cfg.val_interval = max(1, cfg.train_cfg.max_iters // 4)
    cfg.default_hooks.checkpoint.update(interval=100, max_keep_ckpts=1)
    unwanted = ('mmext.RichProgressHook', 'mmext.CurvesHook')
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type not in unwanted]
    cfg.log_level = 'WARNING'
    # Runs of one process must not share a log.
    cfg.experiment_name = cfg.visualizer.name = key(method, percent, seed, score_thr)
    return cfg, networks if semi else [None]


def to_mean_teacher(cfg, method: str, score_thr: float) -> None:
    """Turn the CST config into one of a mean teacher: one labelled branch, one strong view."""
    import baselines  # noqa: F401

    model = cfg.model
    own = model.semi_train_cfg
    least = score_thr if own.get('ignore_score_thr') is None else own.ignore_score_thr
    power = own.get('score_power', 1.0)
    student = next(h for h in cfg.custom_hooks if h.type == 'mmext.CycleTeacherHook')
    cfg.model = dict(
        type='StudySoftTeacher' if method == 'soft_teacher' else 'StudyMeanTeacher',
        detector=model.detector,
        semi_train_cfg=dict(
            score_thr=score_thr,
            score_power=power,
            cls_pseudo_thr=least ** (1 / power),
            agnostic_nms_iou=own.get('agnostic_nms_iou'),
            sup_weight=own.get('sup_weight', 1.0),
            unsup_weight=own.get('unsup_weight', 1.0),
            min_pseudo_bbox_wh=own.get('min_pseudo_bbox_wh', (1e-2, 1e-2)),
        ),
        semi_test_cfg=dict(predict_on='teacher'),
        data_preprocessor=model.data_preprocessor,
    )
    cfg.optim_wrapper.clip_grad = student.get('clip_grad')
    mine = ('mmext.CycleTeacherHook', 'mmext.DistributionConsistencyHook')
    cfg.custom_hooks = [
        *(hook for hook in cfg.custom_hooks if hook.type not in mine),
        # Its default skips the statistics of batch norm, and the teacher would predict nothing.
        dict(type='MeanTeacherHook', momentum=student.momentum, skip_buffer=False),
        dict(
            type='StudyBurnInHook',
            burn_in=student.burn_in,
            ramp_up=student.ramp_up,
            handover=student.get('handover', 'copy'),
        ),
    ]
    cfg.val_cfg = dict(type='ValLoop')
    names = {'sup_student1': 'sup', 'unsup_student1': 'unsup_student'}
    loader = cfg.train_dataloader
    loader.dataset.datasets = [loader.dataset.datasets[0], loader.dataset.datasets[-1]]
    ratio = [loader.sampler.source_ratio[0], loader.sampler.source_ratio[-1]]
    size = loader.batch_size * sum(ratio) // sum(loader.sampler.source_ratio)
    loader.batch_size = loader.sampler.batch_size = size
    loader.sampler.source_ratio = ratio
    for dataset in loader.dataset.datasets:
        branches = dataset.pipeline[-1]
        branches.pop('unsup_student2', None)
        for old, new in names.items():
            if old in branches:
                branches[new] = branches.pop(old)
        branches.branch_field = ['sup', 'unsup_teacher', 'unsup_student']


def double(cfg) -> None:
    """Twice the iterations; the burn-in and the warm-up stay.

    So long, a mean teacher with the others' unsupervised weight of 5 learns its own errors; with 1
    it is better on the validation split.
    """
    cfg.train_cfg.max_iters *= 2
    if 'semi_train_cfg' in cfg.model:
        cfg.model.semi_train_cfg.unsup_weight = 1.0
    for schedule in cfg.param_scheduler:
        if schedule.type != 'LinearLR':
            schedule.update(begin=2 * schedule.begin, end=2 * schedule.end)


def shrink(cfg, detector) -> None:
    """A few iterations from scratch; whatever a random teacher finds is a pseudo-label."""
    cfg.train_cfg.max_iters //= 300
    detector.backbone.init_cfg = None
    detector.test_cfg.score_thr = 1e-4
    if 'semi_train_cfg' in cfg.model:
        cfg.model.semi_train_cfg.score_thr = 0.02
        if 'cls_pseudo_thr' in cfg.model.semi_train_cfg:
            cfg.model.semi_train_cfg.cls_pseudo_thr = 1e-4
        else:
            cfg.model.semi_train_cfg.ignore_score_thr = None
    for hook in cfg.custom_hooks:
        if 'burn_in' in hook:
            hook.update(burn_in=1, ramp_up=0)


def run(
    method: str, settings: argparse.Namespace, percent: float, seed: int, thr: float, split: str
) -> None:
    """Train one run and write its record; nothing if it is there or another process has it."""
    import torch
    from run_folders import forget_other, taken

    from mmext.engine import launch
    from mmext.engine.curves import read_scalars

    work_dir = settings.out / key(method, percent, seed, thr)
    record = work_dir / 'record.json'
    with taken(work_dir) as free:
        if not free:
            return
        cfg, networks = build(method, settings, percent, seed, thr)
        forget_other(work_dir, f'{cfg._cfg_dict!r} {settings.images}')
        if record.exists():
            return
        print(f'study: {work_dir.name}', flush=True)
        launch.prepare(cfg, work_dir=str(work_dir), resume='auto')
        if split == 'val':
            cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        runner = launch.build_runner(cfg)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools
            runner.train()
        model = runner.model
        found = {}
        for network in networks:
            if hasattr(model, 'predict_on'):
                model.predict_on = network
            elif network:
                model.semi_test_cfg['predict_on'] = network
            with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
                found[network or 'detector'] = 100 * runner.test()['coco/bbox_mAP']
        scalars = read_scalars(work_dir)
        steps, seconds = scalars['train/time']
        spent = sum((b - a) * s for a, b, s in zip([0, *steps], steps, seconds, strict=False))
        curve = next(v for k, v in scalars.items() if re.match(r'val/.*bbox_mAP$', k))
        main = networks[0] or 'detector'
        result = {
            'method': method, 'percent': percent, 'seed': seed, 'score_thr': thr, 'split': split,
            'iterations': cfg.train_cfg.max_iters, 'network': main, 'mAP': found,
            'minutes': spent / 60,
            'curve': [[int(s), 100 * float(v)] for s, v in zip(*curve, strict=True)],
        }  # fmt: skip
        draft = record.with_suffix('.tmp')
        draft.write_text(json.dumps(result, indent=1) + '\n')
        os.replace(draft, record)
        for checkpoint in work_dir.glob('*.pth'):
            checkpoint.unlink()
        best = ', '.join(f'{name} {value:.1f}' for name, value in found.items())
        print(f'study: {work_dir.name}: {split} mAP {best} ({spent / 60:.1f} min)', flush=True)


def key(method: str, percent: float, seed: int, thr: float) -> str:
    """Name of a run."""
    name = f'{method}-{percent:g}-{seed}'
    return name if family(method) is None else f'{name}-thr{thr:.2f}'


def shipped_threshold() -> float:
    """Score threshold of the demo's config."""
    from mmext.engine import launch

    cfg = launch.load_config(str(ROOT / 'configs/cst/cst_fcos_r18_digits.py'))
    return cfg.model.semi_train_cfg.score_thr


def read(settings: argparse.Namespace, *name) -> dict | None:
    """Record of a run, None where it is not finished."""
    path = settings.out / key(*name) / 'record.json'
    return json.loads(path.read_text()) if path.exists() else None


def tuning(settings: argparse.Namespace) -> list[tuple]:
    """Runs of the threshold search: the scarce fraction, its first fold, validation split."""
    base = shipped_threshold()
    return [
        (method, settings.percent[0], 0, round(base + step, 2))
        for method in TUNED.values()
        for step in STEPS
    ]


def thresholds(settings: argparse.Namespace) -> dict[str, float]:
    """Best threshold on the validation split for each family; the config's where untuned."""
    chosen = {}
    tuned = argparse.Namespace(**{**vars(settings), 'out': settings.out / 'tune'})
    for name, method in TUNED.items():
        records = [read(tuned, *task) for task in tuning(settings) if task[0] == method]
        if None in records:
            chosen[name] = shipped_threshold()
        else:
            best = max(records, key=lambda record: record['mAP'][record['network']])
            chosen[name] = best['score_thr']
    return chosen


def tasks(settings: argparse.Namespace) -> list[tuple]:
    """All runs, seed by seed, so that an early stop leaves whole comparisons."""
    chosen = thresholds(settings)
    return [
        (method, percent, seed, chosen.get(family(method), 0.0))
        for percent in settings.percent
        for seed in settings.seeds
        for method in settings.methods
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs/study/cst')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--percent', type=float, nargs='+', help='labelled shares; default: all')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--jobs', type=int, default=1, help='processes, one thread each')
    parser.add_argument('--tune', action='store_true', help='search the thresholds, no report')
    parser.add_argument('--quick', action='store_true', help='few iterations, no result file')
    parser.add_argument('--no-report', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--report-only', action='store_true', help='of the finished runs')
    settings = parser.parse_args(arguments)

    import study_report
    import torch
    from demo import SCENES, prepare

    from mmext.datasets.digit_scenes import SceneSettings, generate

    os.chdir(ROOT)
    torch.set_num_threads(1)
    settings.out = settings.out.resolve() / ('quick' if settings.quick else '')
    settings.out.mkdir(parents=True, exist_ok=True)
    settings.scenes = SCENES
    if settings.quick:
        settings.scenes = settings.out / 'digit_scenes'
        settings.seeds = settings.seeds[:1]
        generate(settings.scenes, SceneSettings(train=16, val=4, test=4, percent=(25, 50), folds=1))
    else:
        prepare(settings.out)
    manifest = json.loads((settings.scenes / 'manifest.json').read_text())
    settings.images = manifest['images_sha256']
    shares = manifest['settings']['percent']
    settings.percent = shares[:1] if settings.quick else settings.percent or shares
    todo, split = tasks(settings), 'test'
    runs = settings
    if settings.tune:
        todo, split = tuning(settings), 'val'
        runs = argparse.Namespace(**{**vars(settings), 'out': settings.out / 'tune'})
    helpers = []
    if not settings.report_only:
        given = sys.argv[1:] if arguments is None else arguments
        command = [sys.executable, __file__, *given, '--no-report', '--jobs', '1']
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        helpers = [subprocess.Popen(command, env=environment) for _ in range(settings.jobs - 1)]
        for task in todo:
            run(task[0], runs, *task[1:], split=split)
    if any(helper.wait() for helper in helpers):
        sys.exit('study: a helper process failed')
    if not (settings.tune or settings.no_report):
        results = settings.out if settings.quick else ROOT / 'projects/cst/results'
        done: study_report.Done = {}
        for task in todo:
            record = read(settings, *task)
            if record is not None:
                done.setdefault((task[0], task[1]), []).append(record)
        study_report.write(results, METHODS, settings, manifest, thresholds(settings), done)


if __name__ == '__main__':
    main()
