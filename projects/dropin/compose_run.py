"""Four plugins in one run: CST, TernGrad, SmoothOut and Force Regularization on digit scenes.

Two ranks train CST with the three others as overlays, once uninterrupted and once killed after half
of the iterations and resumed. The last checkpoints must have the same bits.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects')]

CONFIG = 'configs/cst/cst_fcos_r18_digits.py'
OVERLAYS = ('terngrad', 'smoothout', 'force_regularization')


def scenes(quick: bool) -> tuple[Path, list[str]]:
    """Make the digit scenes, or a few of them; return them and the options that name them."""
    from mmengine.config import Config

    from mmext.datasets.scenes import SceneSettings, generate

    few = dict(train=24, val=1, test=1, percent=(25,), folds=1)
    folder = ROOT / ('data/digit_scenes_quick' if quick else 'data/digit_scenes')
    generate(folder, SceneSettings(**few) if quick else SceneSettings())
    datasets = Config.fromfile(ROOT / CONFIG).train_dataloader.dataset.datasets
    options = []
    for index, dataset in enumerate(datasets if quick else ()):
        key = f'train_dataloader.dataset.datasets.{index}'
        annotations = dataset.ann_file.replace('@2', '@25')
        options += [f'{key}.data_root={folder}/', f'{key}.ann_file={annotations}']
    return folder, options


def command(work_dir: Path, iterations: int, options: list[str]) -> list[str]:
    """What trains all four plugins on two ranks; goes on where ``work_dir`` has a checkpoint."""
    from mmengine.config import Config

    hooks = [hook['type'] for hook in Config.fromfile(ROOT / CONFIG).custom_hooks]
    teacher = f'custom_hooks.{hooks.index("mmext.CycleTeacherHook")}'
    return [
        'bash', str(ROOT / 'tools/dist_train.sh'), str(ROOT / CONFIG), '2',
        '--work-dir', str(work_dir), '--resume', '--with', *OVERLAYS,
        '--cfg-options', f'train_cfg.max_iters={iterations}',
        f'default_hooks.checkpoint.interval={iterations // 2}', 'default_hooks.logger.interval=1',
        'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None',
        # From scratch and with a short burn-in, so that few iterations use every part of CST.
        'model.detector.backbone.init_cfg=None', 'model.semi_train_cfg.score_thr=0.01',
        'model.semi_train_cfg.ignore_score_thr=None', 'model.detector.test_cfg.score_thr=1e-4',
        f'{teacher}.burn_in={iterations // 4}', f'{teacher}.ramp_up=0', *options,
    ]  # fmt: skip


def start(work_dir: Path, iterations: int, options: list[str]) -> subprocess.Popen:
    """Start both ranks."""
    environment = {
        **os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1',
        'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
    }  # fmt: skip
    work_dir.mkdir(parents=True, exist_ok=True)
    with open(work_dir / 'output.txt', 'ab') as output:
        return subprocess.Popen(command(work_dir, iterations, options), cwd=ROOT, env=environment,
                                stdout=output, stderr=output)  # fmt: skip


def finish(process: subprocess.Popen, work_dir: Path) -> None:
    """Wait for a run; end this program if it failed."""
    if code := process.wait():
        log = (work_dir / 'output.txt').read_text()
        sys.exit(f'the training failed with code {code}: {log[-2000:]}')


def kill(process: subprocess.Popen) -> None:
    """End all processes of a run at once, as a machine does that goes down."""
    for pid in [process.pid, *descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Children of a process, theirs, and so on: torchrun gives each rank a group of its own."""
    found = []
    for tasks in Path(f'/proc/{pid}/task').glob('*/children'):
        for child in map(int, tasks.read_text().split()):
            found += [child, *descendants(child)]
    return found


def interrupt(process: subprocess.Popen, work_dir: Path, iterations: int) -> None:
    """Kill a run soon after its checkpoint at half time."""
    marker, half = work_dir / 'last_checkpoint', f'iter_{iterations // 2}.pth'
    while process.poll() is None:
        # MMEngine writes this file when the checkpoint is complete.
        if marker.exists() and marker.read_text().strip().endswith(half):
            kill(process)
            if (work_dir / f'iter_{iterations}.pth').exists():
                sys.exit('the run ended before it could be killed; take more --iterations')
            return
        time.sleep(0.05)
    finish(process, work_dir)
    sys.exit(f'the run ended without {half}')


def main() -> None:
    """Train twice, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='8 iterations on 24 scenes, no result')
    parser.add_argument('--iterations', type=int, help='of the whole run (20; --quick: 8)')
    args = parser.parse_args()
    iterations = args.iterations or (8 if args.quick else 20)
    if iterations < 4 or iterations % 4:
        parser.error(f'--iterations {iterations} must be a multiple of 4')
    import torch

    from mmext.testing.trial import first_difference

    folder, options = scenes(args.quick)
    out = ROOT / 'work_dirs/dropin' / ('compose_quick' if args.quick else 'compose')
    shutil.rmtree(out, ignore_errors=True)
    minutes = {}
    for name in ('uninterrupted', 'resumed'):
        began = time.monotonic()
        process = start(out / name, iterations, options)
        try:
            if name == 'resumed':
                interrupt(process, out / name, iterations)
                process = start(out / name, iterations, options)
            finish(process, out / name)
        finally:
            kill(process)
        minutes[name] = (time.monotonic() - began) / 60
    log = (out / 'resumed/output.txt').read_text()
    if f'resumed epoch: 0, iter: {iterations // 2}' not in log:
        sys.exit('the second run was not resumed')
    one, other = (
        torch.load(out / name / f'iter_{iterations}.pth', weights_only=False) for name in minutes
    )
    parts = ('state_dict', 'optimizer', 'param_schedulers')
    states = ({part: state[part] for part in parts} for state in (one, other))
    difference = first_difference(*states)
    tensors, others = one['state_dict'], other['state_dict']
    told = difference or 'identical'
    print(f'{len(tensors)} weights and buffers, optimizer, schedules: {told}')
    if not args.quick:
        differing = sum(not torch.equal(tensors[key], others[key]) for key in tensors)
        report(out, iterations, folder, minutes, len(tensors), differing, difference)
    sys.exit(difference is not None)


def report(out: Path, iterations: int, folder: Path, minutes, tensors, differing, difference):
    """Write the result."""
    from evidence import summary, write_result

    from mmext.engine.curves import read_scalars
    from mmext.launch.records import sha256

    manifest = folder / 'manifest.json'
    counts = json.loads(manifest.read_text())['counts']
    rows = []
    for name, count in (('uninterrupted', 0), ('resumed', differing)):
        losses = dict(zip(*read_scalars(out / name)['train/loss'], strict=True))
        last = float(losses[iterations])
        metrics = {'differing tensors': count, f'loss at iteration {iterations}': last}
        rows.append({
            'method': name,
            'setting': '2 ranks, CST + TernGrad + SmoothOut + Force Regularization',
            'metrics': {key: summary([value]) for key, value in metrics.items()},
            'cost': {'minutes': minutes[name]},
        })  # fmt: skip
    write_result(
        ROOT / 'projects/dropin/results/compose.json',
        claim='four plugins train in one run on two ranks, and a killed and resumed run ends with '
        'the bits of an uninterrupted one',
        paper=None,
        command='python projects/dropin/compose_run.py',
        data={
            'set': 'digit scenes',
            'sizes': {'train': counts['train']['images'], 'labelled': counts['labelled']['2']},
            'manifest': sha256(str(manifest)),
        },
        seeds=[0],
        rows=rows,
        verdict='met' if difference is None else 'not met',
        why=f'{iterations} iterations; the second run was killed (SIGKILL) after iteration '
        f'{iterations // 2} and started again. Compared: all {tensors} weights and buffers, the '
        f'optimizer and the schedules. First difference: {difference or "none"}.',
    )


if __name__ == '__main__':
    main()
