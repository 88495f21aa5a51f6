"""CST on a GPU: time and memory of a step at 640 px, and what minutes of training reach.

Faster R-CNN R50-FPN from scratch on enlarged digit scenes. The methods take turns step by step; the
peak of the allocated memory is of each alone. Writes results/gpu/{cost,training}.json.
"""

import argparse
import contextlib
import copy
import gc
import io
import os
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(HERE)]

from cost import METHODS, build, step  # noqa: E402
from evidence import summary, write_result  # noqa: E402

CONFIG = 'configs/cst/cst_faster-rcnn_r50_fpn_digits-640.py'
COMMAND = 'python projects/cst/gpu.py'


def configuration(scenes: Path, quick: bool):
    """The shipped config on these scenes; tiny if ``quick``."""
    from mmext.engine import launch

    cfg = launch.load_config(str(ROOT / CONFIG))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for source in loader.dataset.get('datasets', [loader.dataset]):
            source.data_root = f'{scenes}/'
            if quick:
                source.ann_file = source.ann_file.replace('@2', '@25')
                resize(source.pipeline, 64)
        if quick:
            loader.update(num_workers=0, persistent_workers=False)
    for evaluator, split in ((cfg.val_evaluator, 'val'), (cfg.test_evaluator, 'test')):
        evaluator.ann_file = f'{scenes}/annotations/instances_{split}.json'
    if quick:
        detector = cfg.model.detector
        detector.backbone.update(depth=18, base_channels=8)
        detector.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
        detector.rpn_head.update(in_channels=16, feat_channels=16)
        detector.roi_head.bbox_roi_extractor.out_channels = 16
        detector.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
    return cfg


def resize(steps: list, size: int) -> None:
    """Set the size of every Resize, in branches too."""
    for transform in steps:
        if transform.type == 'Resize':
            transform.scale = (size, size)
        for branch in transform.values():
            if isinstance(branch, list) and branch and hasattr(branch[0], 'type'):
                resize(branch, size)


def move(method: str, cfg, device: torch.device):
    """Build one method on the device."""
    model, wrapper, batches = build(method, cfg)
    return model.to(device), wrapper, batches


def wait(device: torch.device) -> float:
    """Time when the device has nothing left to do."""
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


def cost(cfg, device: torch.device, rounds: int, out: Path, data: dict) -> None:
    """Seconds and memory of a step with and without mixed precision."""
    rows = []
    ratios: dict[str, list[float]] = {}
    for precision in ('float32', 'float16 autocast'):
        amp = copy.deepcopy(cfg)
        if precision != 'float32':
            if device.type != 'cuda':
                continue
            amp.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        seconds, memory = time_steps(amp, device, rounds)
        for method in METHODS:
            rows.append({
                'method': f'{method}, {precision}',
                'setting': 'Faster R-CNN R50-FPN, 4 labelled (each student) + 8 unlabelled',
                'metrics': {'s/iteration': summary(seconds[method])},
                'cost': {'MiB': memory[method]} if memory else {},
            })  # fmt: skip
        ratios.setdefault('time', []).append(
            statistics.median(seconds['CST']) / statistics.median(seconds['mean teacher'])
        )
        if memory:
            ratios.setdefault('memory', []).append(memory['CST'] / memory['mean teacher'])
    met = max(ratios['time']) <= 2.3 and max(ratios.get('memory', [0])) <= 2
    write_result(
        out / 'cost.json',
        claim='cost against a mean teacher on a GPU: at most 2.3x the time and 2x the memory',
        paper=None,
        command=COMMAND,
        data=data,
        seeds=[0],
        rows=rows,
        verdict='met' if met else 'not met',
        why=f'ratios in float32 and mixed precision: {ratios}; steps take turns, memory is the '
        'peak of what torch allocated for one method alone.',
    )


def time_steps(cfg, device: torch.device, rounds: int) -> tuple[dict, dict]:
    """Seconds of each step of each method, and peak MiB on a GPU."""
    memory = {}
    if device.type == 'cuda':
        for method in METHODS:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            part = move(method, cfg, device)
            for index in range(4):
                step(*part, index)
            memory[method] = (torch.cuda.max_memory_allocated() - before) / 2**20
            del part
    parts = {method: move(method, cfg, device) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for index in range(rounds + 2):
        for method, part in parts.items():
            began = wait(device)
            step(*part, index)
            if index >= 2:
                seconds[method].append(wait(device) - began)
    return seconds, memory


def train(cfg, iterations: int, work_dir: Path, out: Path, data: dict) -> None:
    """Train the shipped config and test every network."""
    from mmext.engine import launch

    factor = iterations / cfg.train_cfg.max_iters
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    for schedule in cfg.param_scheduler:
        begin = int(schedule.get('begin', 0) * factor)
        schedule.update(begin=begin, end=max(begin + 1, int(schedule.end * factor)))
    for hook in cfg.custom_hooks:
        if 'burn_in' in hook:
            hook.update(burn_in=int(hook.burn_in * factor), ramp_up=int(hook.ramp_up * factor))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type != 'mmext.CurvesHook']
    launch.prepare(cfg, work_dir=str(work_dir), resume='auto')
    runner = launch.build_runner(cfg)
    began = time.perf_counter()
    runner.train()
    minutes = (time.perf_counter() - began) / 60
    metrics = {}
    for network in ('teacher1', 'teacher2', 'student1', 'ensemble'):
        runner.model.predict_on = network
        with contextlib.redirect_stdout(io.StringIO()):
            found = runner.test()
        metrics[f'mAP, {network}'] = summary([100 * found['coco/bbox_mAP']])
    write_result(
        out / 'training.json',
        claim='CST trains a full-size two-stage detector on a GPU',
        paper=None,
        command=COMMAND,
        data=data,
        seeds=[0],
        rows=[{
            'method': 'CST', 'setting': f'{iterations} iterations from scratch, 640 px',
            'metrics': metrics, 'cost': {'minutes': minutes},
        }],
        verdict='met' if all(value['mean'] > 0 for value in metrics.values()) else 'not met',
        why='one run; the demo compares methods, this one shows that the GPU path learns.',
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, train, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=20, help='timed steps of each method')
    parser.add_argument('--iterations', type=int, default=1000, help='of the training')
    parser.add_argument('--scenes', type=Path, default=ROOT / 'data/digit_scenes')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/study/cst_gpu')
    parser.add_argument('--out', type=Path, default=HERE / 'results/gpu')
    parser.add_argument('--quick', action='store_true', help='tiny, on any device, into --work-dir')
    args = parser.parse_args(arguments)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if device.type == 'cpu' and not args.quick:
        sys.exit('gpu: no GPU is visible; --quick checks the script on a CPU')

    from mmext.datasets.scenes import SceneSettings, generate

    os.chdir(ROOT)
    if args.quick:
        args.rounds, args.iterations, args.out = 1, 4, args.work_dir
        args.scenes = args.work_dir / 'scenes'
    tiny = SceneSettings(train=16, val=4, test=4, percent=(25,), folds=1)
    manifest, _ = generate(args.scenes, tiny if args.quick else SceneSettings())
    data = {'set': 'digit scenes at 640 px', 'images_sha256': manifest['images_sha256']}
    cfg = configuration(args.scenes, args.quick)
    cost(cfg, device, args.rounds, args.out, data)
    train(cfg, args.iterations, args.work_dir / 'training', args.out, data)
    print(f'gpu: {args.out}')


if __name__ == '__main__':
    main()
