"""Train CST and the same detector on the labels alone, side by side, minutes on two CPU cores.

Prepares the data, trains both at the same time, evaluates them on images that neither has seen and
writes a table, a picture of detections and curves. Interrupted, the same command goes on where it
stopped. ``--data fod_a`` does the same on photos of real objects, after
``mmext data fod_a --from FOLDER``.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

from harness.folders import forget_other  # noqa: E402

METHODS = ('supervised', 'cst')
#: Detections below are not drawn.
SCORE_THR = 0.3


@dataclass(frozen=True)
class Demo:
    """One data set of the demo.

    Args:
        data: Its name for ``mmext data``.
        configs: Names of the configs below ``configs/cst``: labels alone, CST.
        caption: What the test images are.
    """

    data: str
    configs: tuple[str, str]
    caption: str

    def path(self, method: str) -> str:
        """Path of the config of a method."""
        name = self.configs[METHODS.index(method)]
        return str(ROOT / f'configs/cst/{name}.py')


DEMOS = {
    'digits': Demo(
        'large_digit_scenes',
        ('supervised_fcos_lite0_digits', 'cst_fcos_lite0_digits'),
        'unseen digits on unseen photos',
    ),
    'fod_a': Demo(
        'fod_a',
        ('supervised_fcos_lite0_fod-a', 'cst_fcos_lite0_fod-a'),
        'test photos of tools and debris',
    ),
}


def say(text: str) -> None:
    """One line of progress."""
    print(f'demo: {text}', flush=True)


def prepare(demo: Demo) -> str:
    """Prepare the data unless they are there; returns their digest."""
    from mmext.datasets import prepare as data

    say(f'preparing data/{demo.data}')
    try:
        manifest, _ = data.prepare(demo.data, ROOT / 'data')
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'demo: {error}')
    if demo.data == 'fod_a':
        from mmext.datasets.coco_split import split_coco

        annotations = ROOT / 'data/fod_a/annotations'
        split_coco(annotations / 'train.json', annotations / 'semi', percent=(10,), folds=1)
    return manifest['sha256']


def start(config: str, work_dir: Path, options: dict[str, Any]) -> subprocess.Popen:
    """Start ``mmext train`` of a shipped config on one thread; resumes by itself."""
    command = [
        sys.executable, '-m', 'mmext', 'train', config,
        '--work-dir', str(work_dir), '--resume',
    ]  # fmt: skip
    if options:
        command += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with open(work_dir / 'train.log', 'ab') as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def train(demo: Demo, out: Path, options: dict[str, Any], digest: str) -> None:
    """Train both detectors at the same time, with one line of progress."""
    from mmext import launch

    say(f'training both; logs are {out}/{{{",".join(METHODS)}}}/train.log')
    lengths, processes = {}, {}
    for method in METHODS:
        cfg = launch.load_config(demo.path(method), options)
        lengths[method] = cfg.train_cfg.max_iters
        forget_other(out / method, f'{cfg._cfg_dict!r} {digest}')
    for method in METHODS:
        processes[method] = start(demo.path(method), out / method, options)
    watch(processes, out, lengths)


def watch(processes: dict[str, subprocess.Popen], out: Path, lengths: dict[str, int]) -> None:
    """Show one line until all trainings have ended; a failure or Ctrl-C stops the others.

    Where the output is not a terminal the line is written at every quarter.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    total, quarter = sum(lengths.values()), 1
    columns = (TextColumn('demo:'), BarColumn(), TextColumn('{task.description}'))
    try:
        with contextlib.ExitStack() as stack:
            line = None
            if Console().is_terminal:
                line = stack.enter_context(Progress(*columns, TimeElapsedColumn()))
                line.add_task('starting', total=total)
            running = True
            while running:
                running = any(process.poll() is None for process in processes.values())
                done = {name: iteration(out / name) for name in processes}
                told = ', '.join(f'{name} {done[name]}/{lengths[name]}' for name in processes)
                if line:
                    line.update(line.task_ids[0], completed=sum(done.values()), description=told)
                elif 4 * sum(done.values()) >= quarter * total:
                    quarter = 4 * sum(done.values()) // total + 1
                    say(told)
                for name, process in processes.items():
                    if process.poll():
                        sys.exit(f'demo: training {name} failed, see {out / name / "train.log"}')
                time.sleep(0.5)
    except KeyboardInterrupt:
        sys.exit('\ndemo: stopped; the same command goes on from the last checkpoint')
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait()


def iteration(work_dir: Path) -> int:
    """Last logged iteration of a training."""
    for file in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        for record in reversed(file.read_text().splitlines()):
            with contextlib.suppress(ValueError):
                found = json.loads(record)
                if 'iter' in found:
                    return int(found['step'])
    return 0


def evaluate(demo: Demo, method: str, work_dir: Path, pictures: int) -> Iterator[tuple]:
    """Yield name, metrics and detections on the first images; of CST also both teachers fused."""
    import torch
    from mmengine.runner import find_latest_checkpoint

    from mmext import launch
    from mmext.engine.curves import read_scalars, training_minutes

    cfg = launch.load_config(demo.path(method))
    launch.prepare_test(cfg, find_latest_checkpoint(work_dir), work_dir=str(work_dir / 'test'))
    cfg.log_level = 'ERROR'
    warnings.simplefilter('ignore')
    minutes = training_minutes(read_scalars(work_dir))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools writes its own table
        runner = launch.build_runner(cfg)
        launch.check_checkpoint(runner.model, cfg.load_from)
        for network in ('', 'ensemble') if method == 'cst' else ('',):
            if network:
                runner.model.predict_on = network
            found = runner.test()
            with torch.no_grad():
                seen = runner.model.test_step(next(iter(runner.test_dataloader)))[:pictures]
            row = {
                # MMDetection's metric is empty where nothing at all was detected.
                'mAP': found.get('coco/bbox_mAP', 0.0),
                'AP50': found.get('coco/bbox_mAP_50', 0.0),
                'minutes': minutes,
            }
            yield '_'.join(filter(None, (method, network))), row, seen


def draw(
    detections: dict[str, list], titles: dict[str, str], classes: list[str], path: Path
) -> None:
    """Ground truth and detections of each method, one column an image.

    A box is green where class and place are right (IoU above 0.5), red where they are not.
    """
    import cv2
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from torchvision.ops import box_iou

    samples = next(iter(detections.values()))
    figure = Figure(figsize=(1.9 * len(samples), 2.0 * (1 + len(detections))), layout='compressed')
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(detections), len(samples), squeeze=False)
    for column, reference in enumerate(samples):
        truth = reference.gt_instances
        boxes = truth.bboxes.tensor if hasattr(truth.bboxes, 'tensor') else truth.bboxes
        boxes = boxes / boxes.new_tensor(reference.scale_factor).repeat(2)
        image = cv2.imread(reference.img_path)[..., ::-1]
        for row, name in enumerate(['ground truth', *detections]):
            ax = axes[row][column]
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            if column == 0:
                ax.set_ylabel(titles.get(name, name), fontsize=8)
            if row == 0:
                drawn = [(*pair, None, 'white') for pair in zip(boxes, truth.labels, strict=True)]
            else:
                found = detections[name][column].pred_instances
                found = found[found.scores > SCORE_THR]
                same = found.labels[:, None] == truth.labels[None]
                right = ((box_iou(found.bboxes, boxes) > 0.5) & same).any(1)
                drawn = [
                    (box, label, score, 'lime' if hit else 'tomato')
                    for box, label, score, hit in zip(
                        found.bboxes, found.labels, found.scores, right, strict=True
                    )
                ]
            for box, label, score, colour in drawn:
                x1, y1, x2, y2 = torch.as_tensor(box).tolist()
                ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.4))
                text = classes[int(label)] + ('' if score is None else f' {score:.2f}')
                ax.text(x1, y1 - 1, text, color='black', fontsize=7, va='bottom',
                        bbox={'facecolor': colour, 'pad': 0.6, 'lw': 0})  # fmt: skip
    figure.savefig(path, dpi=120)


def report(demo: Demo, out: Path, pictures: int, digest: str) -> None:
    """Table, summary.json, detections.png and curves.png."""
    from evidence import hardware, versions
    from rich.console import Console
    from rich.table import Table

    from mmext import launch
    from mmext.engine.curves import plot_curves, read_scalars

    say(f'evaluating on {demo.caption}')
    sets = launch.load_config(demo.path('cst')).train_dataloader.dataset.datasets
    images = [
        len(json.loads((Path(part.data_root) / part.ann_file).read_text())['images'])
        for part in (sets[0], sets[-1])
    ]
    titles = {
        'supervised': f'labels alone ({images[0]} images)',
        'cst': f'CST (+ {images[1]:,} unlabelled)',
        'cst_ensemble': 'CST, both teachers fused',
    }
    rows, detections = {}, {}
    for method in METHODS:
        for name, row, seen in evaluate(demo, method, out / method, pictures):
            rows[name] = row
            if name in METHODS:
                detections[name] = seen
    classes = list(sets[0].metainfo.classes)
    draw(detections, titles, classes, out / 'detections.png')
    plot_curves(read_scalars(out / 'cst'), out / 'curves.png')
    summary = {
        'rows': rows,
        'data': {'set': demo.data, 'sha256': digest, 'labelled': images[0]},
        'hardware': hardware(),
        'versions': versions(),
    }
    (out / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    table = Table(title=f'{demo.caption}; backbone pretrained on ImageNet')
    for column in ('method', 'mAP', 'AP50', 'minutes'):
        table.add_column(column, justify='left' if column == 'method' else 'right')
    for name, row in rows.items():
        table.add_row(
            titles[name], f'{100 * row["mAP"]:.1f}', f'{100 * row["AP50"]:.1f}',
            f'{row["minutes"]:.1f}',
        )  # fmt: skip
    Console(width=100).print(table)
    say(f'{out}/detections.png  {out}/curves.png  {out}/summary.json')


def main() -> None:
    """Prepare, train, report."""
    from mmext.commands.options import CfgOptions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', choices=DEMOS, default='digits')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/demo_<data>')
    parser.add_argument('--pictures', type=int, default=8, help='images in detections.png')
    parser.add_argument(
        '--cfg-options', nargs='+', default={}, action=CfgOptions, metavar='KEY=VALUE',
        help='for both trainings',
    )  # fmt: skip
    args = parser.parse_args()
    os.chdir(ROOT)
    began = time.time()
    demo = DEMOS[args.data]
    out = args.work_dir or Path(f'work_dirs/demo_{args.data}')
    out.mkdir(parents=True, exist_ok=True)
    digest = prepare(demo)
    train(demo, out, args.cfg_options, digest)
    report(demo, out, args.pictures, digest)
    say(f'{(time.time() - began) / 60:.1f} minutes')


if __name__ == '__main__':
    main()
