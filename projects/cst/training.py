"""One training of the study of CST's margin: any method on digit scenes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import baselines  # noqa: F401
import torch
from harness.grid import Run
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmext import launch
from mmext.datasets.scenes import SceneSettings, generate
from mmext.engine.curves import read_scalars, training_minutes

ROOT = Path(__file__).resolve().parents[2]
#: Labelled share -> weight of the unsupervised loss, for all methods; the config's elsewhere.
UNSUP_WEIGHT = {10: 1.0}
BACKBONE = ROOT / 'data/letters_r18/letters_r18.pth'
QUICK_SCENES = dict(train=16, val=4, test=4, percent=(25,), folds=1)


def config(name: str) -> Path:
    """Shipped config of CST or of the detector alone."""
    return ROOT / f'configs/cst/{name}_fcos_r18_digits.py'


def scenes(work: Path, quick: bool) -> Path:
    """Folder of the scenes."""
    return work / 'digit_scenes' if quick else ROOT / 'data/digit_scenes'


def prepare(work: Path, quick: bool) -> dict:
    """Make what is missing of scenes and backbone; tells the data."""
    settings = SceneSettings(**QUICK_SCENES) if quick else SceneSettings()
    manifest, _ = generate(scenes(work, quick), settings)
    if not (quick or BACKBONE.exists()):
        config = 'configs/cst/letters_r18.py'
        command = [sys.executable, '-m', 'mmext', 'train', config,
                   '--work-dir', str(work / 'letters')]  # fmt: skip
        subprocess.run([*command, '--resume'], cwd=ROOT, check=True)
        latest = find_latest_checkpoint(str(work / 'letters'))
        state = torch.load(latest, map_location='cpu', weights_only=True)
        BACKBONE.parent.mkdir(parents=True, exist_ok=True)
        draft = BACKBONE.with_suffix('.tmp')
        torch.save({'state_dict': state['state_dict']}, draft)
        os.replace(draft, BACKBONE)
    labelled = manifest['counts']['labelled']
    return {
        'set': 'digit scenes',
        'labelled': {f'{float(share):g} %': count for share, count in labelled.items()},
        'images_sha256': manifest['images_sha256'],
        'backbone': 'pretrained as a classifier of rendered letters',
    }


def build(run: Run) -> tuple[Config, list]:
    """Config of one run and the networks that are evaluated, the judged one first."""
    method, seed = run.arm.name, run.seed
    score_thr = run.values.get('score_thr', 0.0)
    percent = QUICK_SCENES['percent'][0] if run.quick else run.setting.options['percent']
    semi = not method.startswith('supervised')
    cfg = launch.load_config(str(config('cst' if semi else 'supervised')))
    cfg.randomness = dict(seed=seed)
    if semi and percent in UNSUP_WEIGHT:
        cfg.model.semi_train_cfg.unsup_weight = UNSUP_WEIGHT[percent]
    networks = ['teacher1', 'teacher2', 'ensemble']
    two = method == 'two_teachers'
    if two:
        cfg.model.type = 'StudyTwoMeanTeachers'
    if two or method.startswith('cst'):
        cfg.model.consistency.kind = 'none' if two else method.removeprefix('cst_')
        cfg.model.semi_train_cfg.score_thr = score_thr
        cfg.val_cfg.networks = [cfg.model.semi_test_cfg.predict_on]
    elif semi:
        to_mean_teacher(cfg, method, score_thr)
        networks = ['teacher', 'student']
    if method.endswith('_2x'):
        double(cfg)
    fold, folder = f'.{seed + 1}@{percent:g}', scenes(run.work, run.quick)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.data_root = f'{folder}/'
            dataset.ann_file = re.sub(r'\.\d+@\d+(\.\d+)?(?=-|\.json)', fold, dataset.ann_file)
    for evaluator, split in ((cfg.val_evaluator, 'val'), (cfg.test_evaluator, 'test')):
        evaluator.ann_file = f'{folder}/annotations/instances_{split}.json'
    detector = cfg.model.get('detector', cfg.model)
    if run.quick:
        shrink(cfg, detector)
    cfg.train_cfg.val_interval = max(1, cfg.train_cfg.max_iters // 4)
    cfg.default_hooks.checkpoint.update(interval=100, max_keep_ckpts=1)
    unwanted = ('mmext.RichProgressHook', 'mmext.CurvesHook')
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type not in unwanted]
    cfg.log_level = 'WARNING'
    cfg.custom_hooks += run.speed_hooks()
    return cfg, networks if semi else [None]


def to_mean_teacher(cfg, method: str, score_thr: float) -> None:
    """Turn the CST config into one of a mean teacher: one labelled branch, one strong view."""
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


def train(run: Run) -> dict:
    """Train one detector, from its last checkpoint if there is one, and evaluate its networks."""
    cfg, networks = build(run)
    launch.prepare(cfg, work_dir=str(run.folder), resume='auto')
    if run.split == 'val':
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    runner = launch.build_runner(cfg)
    runner.train()
    model = runner.model
    found = {}
    for network in networks:
        if hasattr(model, 'predict_on'):
            model.predict_on = network
        elif network:
            model.semi_test_cfg['predict_on'] = network
        with torch.no_grad():
            found[network or 'detector'] = 100 * runner.test()['coco/bbox_mAP']
    scalars = read_scalars(run.folder)
    curve = next(v for k, v in scalars.items() if re.match(r'val/.*bbox_mAP$', k))
    for checkpoint in run.folder.glob('*.pth'):
        checkpoint.unlink()
    return {
        'iterations': cfg.train_cfg.max_iters,
        'network': networks[0] or 'detector',
        'mAP': found,
        'minutes': training_minutes(scalars),
        'curve': [[int(s), 100 * float(v)] for s, v in zip(*curve, strict=True)],
    }
