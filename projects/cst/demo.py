"""Train CST and its supervised baseline on digit scenes, minutes on two CPU cores.

Makes the data and the backbone on the first run, trains both detectors side by side,
evaluates them on unseen digits and backgrounds and writes a table, a picture of detections and
curves. Interrupted, the same command goes on where it stopped.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

from run_folders import forget_other  # noqa: E402

LETTERS = 'letters_r18'
BACKBONE = ROOT / 'data/letters_r18/letters_r18.pth'
SCENES = ROOT / 'data/digit_scenes'
METHODS = {'supervised': 'supervised_fcos_r18_digits', 'cst': 'cst_fcos_r18_digits'}
TITLES = {
    'supervised': 'supervised, 40 images',
    'cst': 'CST, 40 + 1,960 unlabelled',
    'cst_ensemble': 'CST, boxes of both teachers fused',
}


def say(text: str) -> None:
    """One line of progress."""
    print(f'demo: {text}', flush=True)


def start(
    config: str, work_dir: Path, options: list[str], log: Path | None, threads: int
) -> subprocess.Popen:
    """Start ``tools/train.py`` of a shipped config; resumes by itself."""
    command = [
        sys.executable, str(ROOT / 'tools/train.py'), str(ROOT / f'configs/cst/{config}.py'),
        '--work-dir', str(work_dir), '--resume',
    ]  # fmt: skip
    if options:
        command += ['--cfg-options', *options]
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
    work_dir.mkdir(parents=True, exist_ok=True)
    output = open(log, 'ab') if log else None  # noqa: SIM115  (lives as long as the process)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def finish(processes: dict[str, tuple[subprocess.Popen, Path | None]]) -> None:
    """Wait for trainings; on Ctrl-C or a failure stop the others and say how to go on."""
    try:
        while any(process.poll() is None for process, _ in processes.values()):
            for name, (process, log) in processes.items():
                if process.poll():
                    where = f', see {log}' if log else ''
                    sys.exit(f'demo: training {name} failed with code {process.returncode}{where}')
            time.sleep(0.5)
    except KeyboardInterrupt:
        sys.exit('\ndemo: stopped; the same command goes on from the last checkpoint')
    finally:
        for process, _ in processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait()


def prepare(out: Path) -> None:
    """Make scenes and the backbone unless they are there."""
    from mmext.datasets.digit_scenes import SceneSettings, generate

    try:
        generate(SCENES, SceneSettings())
    except FileExistsError as error:
        sys.exit(f'demo: {error}: python tools/dataset_converters/make_digit_scenes.py --force')
    if BACKBONE.exists():
        return
    say('training the backbone as a classifier of rendered letters (once)')
    work_dir = out / 'letters'
    finish({'letters': (start(LETTERS, work_dir, [], None, threads=2), None)})
    import torch
    from mmengine.runner import find_latest_checkpoint

    state = torch.load(find_latest_checkpoint(work_dir), map_location='cpu', weights_only=True)
    BACKBONE.parent.mkdir(parents=True, exist_ok=True)
    draft = BACKBONE.with_suffix('.tmp')
    torch.save({'state_dict': state['state_dict']}, draft)
    os.replace(draft, BACKBONE)


def train(out: Path, options: list[str]) -> None:
    """Train both detectors at the same time; the log of the baseline goes to a file."""
    log = out / 'supervised' / 'train.log'
    say(f'training CST; the supervised baseline runs beside it ({log})')
    from mmext.engine import launch

    images = json.loads((SCENES / 'manifest.json').read_text())['images_sha256']
    processes = {}
    for name, config in METHODS.items():
        cfg = launch.load_config(str(ROOT / f'configs/cst/{config}.py'))
        forget_other(out / name, f'{cfg._cfg_dict!r} {options} {images}')
        target = log if name == 'supervised' else None
        processes[name] = (start(config, out / name, options, target, threads=1), target)
    finish(processes)


def evaluate(out: Path, name: str, pictures: int) -> tuple[dict[str, dict], list]:
    """Metrics on the test split, of CST also with both teachers, and detections on first images."""
    import torch
    from mmengine.runner import find_latest_checkpoint

    from mmext.engine import launch
    from mmext.engine.curves import read_scalars

    work_dir = out / name
    cfg = launch.load_config(str(ROOT / f'configs/cst/{METHODS[name]}.py'))
    launch.prepare_test(cfg, find_latest_checkpoint(work_dir), work_dir=str(work_dir / 'test'))
    cfg.log_level = 'WARNING'
    runner = launch.build_runner(cfg)
    launch.check_checkpoint(runner.model, cfg.load_from)
    metrics = runner.test()
    with torch.no_grad():
        found = runner.model.test_step(next(iter(runner.test_dataloader)))[:pictures]
    steps, seconds = read_scalars(work_dir)['train/time']
    # Mean time of the iterations since the last logged one, so a resumed run counts in full.
    minutes = sum(
        (step - before) * second
        for before, step, second in zip([0, *steps], steps, seconds, strict=False)
    )
    results = {name: metrics}
    if name == 'cst':
        runner.model.predict_on = 'ensemble'
        results['cst_ensemble'] = runner.test()
    rows = {
        key: {
            'mAP': result['coco/bbox_mAP'],
            'AP50': result['coco/bbox_mAP_50'],
            'minutes': minutes / 60,
        }
        for key, result in results.items()
    }
    return rows, found


def draw(detections: dict[str, list], path: Path, score_thr: float = 0.3) -> None:
    """Ground truth and detections of each method, one column an image."""
    import cv2
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = ['ground truth', *detections]
    samples = next(iter(detections.values()))
    figure = Figure(figsize=(1.6 * len(samples), 1.75 * len(rows)), layout='compressed')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(samples), squeeze=False)
    for row, name in enumerate(rows):
        for column, reference in enumerate(samples):
            ax = axes[row][column]
            ax.imshow(cv2.imread(reference.img_path)[..., ::-1])
            ax.set(xticks=[], yticks=[])
            if column == 0:
                ax.set_ylabel(TITLES.get(name, name), fontsize=8)
            if row == 0:
                truth = reference.gt_instances
                scale = reference.scale_factor
                boxes = truth.bboxes.tensor if hasattr(truth.bboxes, 'tensor') else truth.bboxes
                boxes = boxes / boxes.new_tensor(scale).repeat(2)
                labels, scores = truth.labels, None
            else:
                found = detections[name][column].pred_instances
                found = found[found.scores > score_thr]
                boxes, labels, scores = found.bboxes, found.labels, found.scores
            for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                colour = 'lime' if row == 0 else 'yellow'
                ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.2))
                text = str(int(labels[index]))
                if scores is not None:
                    text += f' {scores[index]:.2f}'
                ax.text(x1, y1 - 1, text, color='black', fontsize=6, va='bottom',
                        bbox={'facecolor': colour, 'pad': 0.6, 'lw': 0})  # fmt: skip
    figure.savefig(path, dpi=130)


def report(out: Path, pictures: int) -> None:
    """Table, summary.json, detections.png and curves.png."""
    from evidence import hardware, versions
    from rich.console import Console
    from rich.table import Table

    from mmext.engine.curves import plot_curves, read_scalars

    say('evaluating on the test split: unseen digits on unseen backgrounds')
    rows: dict[str, dict] = {}
    detections = {}
    for name in METHODS:
        found, detections[name] = evaluate(out, name, pictures)
        rows.update(found)
    draw(detections, out / 'detections.png')
    plot_curves(read_scalars(out / 'cst'), out / 'curves.png')
    manifest = json.loads((SCENES / 'manifest.json').read_text())
    summary = {
        'rows': rows,
        'data': {'set': 'digit scenes', 'images_sha256': manifest['images_sha256']},
        'hardware': hardware(),
        'versions': versions(),
    }
    (out / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    table = Table(title='300 test scenes; backbone pretrained on rendered letters')
    for column in ('method', 'mAP', 'AP50', 'minutes'):
        table.add_column(column, justify='left' if column == 'method' else 'right')
    for name, row in rows.items():
        table.add_row(
            TITLES[name], f'{100 * row["mAP"]:.1f}', f'{100 * row["AP50"]:.1f}',
            f'{row["minutes"]:.1f}',
        )  # fmt: skip
    Console(width=100).print(table)
    say(f'{out}/detections.png  {out}/curves.png  {out}/summary.json')


def main() -> None:
    """Prepare, train, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--pictures', type=int, default=8, help='images in detections.png')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for both trainings'
    )
    args = parser.parse_args()
    os.chdir(ROOT)
    began = time.time()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    prepare(args.work_dir)
    train(args.work_dir, args.cfg_options)
    report(args.work_dir, args.pictures)
    say(f'{(time.time() - began) / 60:.1f} minutes')


if __name__ == '__main__':
    main()
