"""CST on a GPU: time and memory of a step at 640 px, and what minutes of training reach.

Faster R-CNN R50-FPN from scratch on enlarged digit scenes. The methods take turns step by step; the
peak of the allocated memory is of each alone. Writes results/gpu/{cost,training}.json.
"""

import contextlib
import copy
import gc
import io
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(HERE)]

from benchmark import clocked, in_turns, options  # noqa: E402
from cost import METHODS, build, step  # noqa: E402
from evidence import row, write_result  # noqa: E402

from mmext import launch  # noqa: E402
from mmext.datasets.scenes import SceneSettings, generate  # noqa: E402

CONFIG = 'configs/cst/cst_faster-rcnn_r50_fpn_digits-640.py'
COMMAND = 'python projects/cst/gpu.py'


def configuration(scenes: Path, quick: bool):
    """The shipped config on these scenes; tiny if ``quick``."""
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


def on_device(method: str, cfg, device: torch.device) -> Callable[[], None]:
    """Step of one method that is built on the device."""
    model, *others = build(method, cfg)
    return partial(step, model.to(device), *others)


def cost(cfg, device: torch.device, rounds: int, out: Path, data: dict) -> None:
    """Seconds and memory of a step with and without mixed precision."""
    rows = []
    ratios: dict[str, list[float]] = {'time': []}
    for precision in ('float32', 'float16 autocast')[: 1 + (device.type == 'cuda')]:
        amp = copy.deepcopy(cfg)
        if precision != 'float32':
            amp.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        seconds, memory = time_steps(amp, device, rounds)
        setting = 'Faster R-CNN R50-FPN, 4 labelled (each student) + 8 unlabelled'
        rows += [
            row(f'{method}, {precision}', setting, {'s/iteration': seconds[method]},
                cost={'MiB': memory[method]} if memory else {})
            for method in METHODS
        ]  # fmt: skip
        medians = {method: statistics.median(seconds[method]) for method in METHODS}
        ratios['time'].append(medians['CST'] / medians['mean teacher'])
        if memory:
            ratios.setdefault('memory', []).append(memory['CST'] / memory['mean teacher'])
    met = max(ratios['time']) <= 2.3 and max(ratios.get('memory', [0])) <= 2
    write_result(
        out / 'cost.json',
        claim='cost against a mean teacher on a GPU: at most 2.3x the time and 2x the memory',
        command=COMMAND,
        data=data,
        rows=rows,
        verdict='met' if met else 'not met',
        why=f'ratios in float32 and mixed precision: {ratios}; steps take turns, memory is the '
        'peak of what torch allocated for one method alone.',
    )


def time_steps(cfg, device: torch.device, rounds: int) -> tuple[dict, dict]:
    """Seconds of each step of each method, and peak MiB on a GPU."""
    memory = {}
    for method in METHODS if device.type == 'cuda' else ():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call = on_device(method, cfg, device)
        for _ in range(4):
            call()
        memory[method] = (torch.cuda.max_memory_allocated() - before) / 2**20
        del call
    calls = {method: clocked(on_device(method, cfg, device)) for method in METHODS}
    return in_turns(calls, rounds, warm_up=2), memory


def train(cfg, iterations: int, work_dir: Path, out: Path, data: dict) -> None:
    """Train the shipped config and test every network."""
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
    minutes = clocked(runner.train)() / 60
    metrics = {}
    for network in ('teacher1', 'teacher2', 'student1', 'ensemble'):
        runner.model.predict_on = network
        with contextlib.redirect_stdout(io.StringIO()):
            metrics[f'mAP, {network}'] = [100 * runner.test()['coco/bbox_mAP']]
    setting = f'{iterations} iterations from scratch, 640 px'
    write_result(
        out / 'training.json',
        claim='CST trains a full-size two-stage detector on a GPU',
        command=COMMAND,
        data=data,
        rows=[row('CST', setting, metrics, cost={'minutes': minutes})],
        verdict='met' if min(metrics.values()) > [0] else 'not met',
        why='one run; the demo compares methods, this one shows that the GPU path learns.',
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, train, write the results."""
    args = options(__doc__, arguments, work_dir=ROOT / 'work_dirs/study/cst_gpu')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if device.type == 'cpu' and not args.quick:
        sys.exit('gpu: no GPU is visible; --quick checks the script on a CPU')

    os.chdir(ROOT)
    rounds, iterations, out = 20, 1000, HERE / 'results/gpu'
    scenes, settings = ROOT / 'data/digit_scenes', SceneSettings()
    if args.quick:
        rounds, iterations, out = 1, 4, args.work_dir
        scenes = args.work_dir / 'scenes'
        settings = SceneSettings(train=16, val=4, test=4, percent=(25,), folds=1)
    manifest, _ = generate(scenes, settings)
    data = {'set': 'digit scenes at 640 px', 'images_sha256': manifest['images_sha256']}
    cfg = configuration(scenes, args.quick)
    cost(cfg, device, rounds, out, data)
    train(cfg, iterations, args.work_dir / 'training', out, data)
    print(f'gpu: {out}')


if __name__ == '__main__':
    main()
