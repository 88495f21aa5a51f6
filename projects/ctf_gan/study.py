"""Does CTF with self-supervision on 70 % of the images beat SN-GAN on all of them?

Six GANs, the paper's ablation as far as it is known, on handwritten digits and on 1,000 Chinese
characters: same networks, real images a step, optimizers and iterations (characters with an
auxiliary classifier in all six, without which none of them learns the classes). Measured on test
images with the features of a classifier that was trained on all real training images: FID-C
decides; IS-C, precision, recall and the accuracy of class-conditional samples are told beside it
(samples of given classes have a high IS-C even where all of a class are one picture). A GAN with
transferred features is measured with its gates shut, too: what the features do at the end of the
training.

Runs are kept in the work folder, so a killed study goes on, and the same command started twice
shares the work. ``--eta`` says what is left; ``--lr-scale`` with ``--split val`` shows whether a
method is at its best learning rate.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(ROOT)]

from evidence import command, summary, write_result  # noqa: E402
from run_folders import forget_other, taken  # noqa: E402

#: Method -> what it has. LQ images are a tenth of the whole set, made of the removed 30 %.
METHODS: dict[str, dict] = {
    'SN-GAN 100 %': dict(hq_ratio=1.0),
    'SN-GAN 70 %': dict(),
    'SN-GAN 70 % + LQ as real': dict(lq=True),
    'SS-GAN 70 %': dict(ssl=True),
    'CTF 70 %': dict(lq=True, transfer=True),
    'CTF+SSL 70 %': dict(lq=True, transfer=True, ssl=True),
}
BASELINE, OURS, WITHOUT = 'SN-GAN 100 %', 'CTF+SSL 70 %', 'SS-GAN 70 %'
#: Set -> GAN, classifier, fakes for each real test image and, for the full study, the seeds.
SETS: dict[str, dict] = {
    'digits': dict(gan='ctf-gan-ssl_digits.py', extractor='extractor_digits.py',
                   fakes=10, seeds=(0, 1, 2)),
    'glyphs': dict(gan='ctf-gan-ssl_glyphs1000.py', extractor='extractor_glyphs1000.py',
                   fakes=5, seeds=(0,)),
}  # fmt: skip
DATA = {
    'digits': '1,078 handwritten digits of 10 classes, 28 px; 359 for the test',
    'glyphs': '20,000 drawings of 1,000 characters of GB2312 in 4 fonts, 32 px; 2,000 for the test',
}
#: Factors of the learning rates that :func:`rates` looks for.
SCALES = (0.5, 1, 2, 4)
MEASURES = ('FID-C', 'IS-C', 'precision-C', 'recall-C', 'accuracy')
#: Parts of a config that a training depends on.
TRAINING = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler',
            'randomness')  # fmt: skip


def load(name: str, quick: bool):
    """A config of this plugin; the quick form is smaller and needs no Chinese fonts."""
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / 'configs/ctf_gan' / name)
    cfg.custom_hooks = [dict(type='mmext.IterSeedHook')]
    cfg.log_level = 'WARNING'
    return shrink(cfg) if quick else cfg


def shrink(cfg):
    """A minute's worth: few images and iterations, symbols in the place of characters."""
    symbols = dict(alphabet='symbols', classes=24, fonts=None, num_samples=240)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        datasets = loader.dataset.get('datasets', [loader.dataset])
        for dataset in datasets:
            source = dataset.get('dataset', dataset)
            source.update(symbols if 'Glyph' in source.type else dict(indices=240))
    classes = 24 if 'glyphs' in cfg.filename else 10
    if 'generator' in cfg.model:
        cfg.train_cfg.max_iters = 6
        cfg.train_dataloader.batch_size = cfg.train_dataloader.sampler.batch_size = 16
        for network in (cfg.model.generator, cfg.model.discriminator):
            network.update(base_channels=4, num_classes=classes)
        cfg.model.transfer.base_channels = 4
    else:
        cfg.train_cfg.max_epochs = cfg.param_scheduler[0].total_steps = 2
        cfg.model.data_preprocessor.num_classes = cfg.model.head.num_classes = classes
    return cfg


def train_extractor(name: str, args: argparse.Namespace) -> dict:
    """Train the classifier of a set once; return the extractor's config."""
    from mmengine.runner import Runner

    folder = args.work / name / 'extractor'
    done = folder / 'done.json'
    cfg = load(SETS[name]['extractor'], args.quick)
    cfg.work_dir = str(folder)
    cfg.randomness = dict(seed=0)
    path = folder / 'extractor.py'
    checkpoint = folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    extractor = dict(type='classifier', config=str(path), checkpoint=str(checkpoint))
    if done.exists():
        return extractor
    with taken(folder) as free:
        if not free:
            sys.exit(f'another process trains the classifier of {name}: start again in a minute')
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
        cfg.resume = True
        runner = Runner.from_cfg(cfg)
        runner.train()
        cfg.dump(path)
        done.write_text(json.dumps(runner.test()))
    return extractor


def configure(cfg, method: str, seed: int) -> None:
    """Turn the config of CTF+SSL into that of ``method``."""
    has = METHODS[method]
    hq, lq = cfg.train_dataloader.dataset.datasets
    for part in (hq, lq):
        part.update(seed=seed, index_file=None)
    hq.hq_ratio = has.get('hq_ratio', 0.7)
    if not has.get('lq'):
        # Nothing reads low-quality versions.
        hq.dataset.pipeline = [step for step in hq.dataset.pipeline if 'Degrade' not in step.type]
        cfg.train_dataloader.dataset.datasets = [hq]
        cfg.train_dataloader.sampler.source_ratio = [1]
    elif has.get('transfer'):
        # As many real images as the others; the low-quality ones come on top.
        loader = cfg.train_dataloader
        loader.batch_size = loader.sampler.batch_size = loader.batch_size * 9 // 8
        loader.sampler.source_ratio = [8, 1]
    if not has.get('transfer'):
        cfg.model.transfer = None
        cfg.optim_wrapper.pop('transfer')
    if not has.get('ssl'):
        cfg.model.self_supervision = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(interval=250, max_keep_ckpts=1)
    cfg.randomness = dict(seed=seed)
    cfg.resume = True


def run(name: str, method: str, seed: int, args) -> dict | None:
    """Train one GAN, from its last checkpoint if there is one, and measure it.

    Returns:
        Its record; None: another process has it.
    """
    folder = folder_of(name, method, seed, args)
    with taken(folder) as free:
        if not free:
            return None
        cfg = load(SETS[name]['gan'], args.quick)
        configure(cfg, method, seed)
        if args.iters:
            cfg.train_cfg.max_iters = args.iters
            cfg.param_scheduler[0].update(begin=args.iters // 2, end=args.iters)
        for part in cfg.optim_wrapper.values():
            if isinstance(part, dict):
                part.optimizer.lr *= args.lr_scale
        forget_other(folder, repr([cfg._cfg_dict.get(part) for part in TRAINING]))
        if not measured(folder, name, args):
            train_and_measure(name, cfg, folder, args)
    return {'set': name, 'method': method, 'seed': seed, **measured(folder, name, args)}


def train_and_measure(name: str, cfg, folder: Path, args) -> None:
    """What :func:`run` does, without looking for what is there."""
    import torch
    from mmengine.runner import Runner

    from mmext.plugins.ctf_gan.pictures import chosen_rows, class_grid, write_png

    cfg.work_dir = str(folder)
    cfg.experiment_name = f'{name}-{folder.name}'
    cfg.model.test_cfg = dict(num_fakes=SETS[name]['fakes'])
    if args.split == 'val':
        cfg.test_dataloader = load(SETS[name]['gan'], args.quick).val_dataloader
    cfg.test_evaluator = dict(
        type='mmext.GenerativeMetrics',
        split=args.split,
        extractor=train_extractor(name, args),
        measures=('FID', 'IS', 'PRC', 'accuracy'),
    )
    torch.set_num_threads(1)
    runner = Runner.from_cfg(cfg)
    watch = stopwatch(folder / 'trained.json', cfg.default_hooks.checkpoint.interval)
    runner.register_hook(watch, 'LOWEST')
    runner.train()
    record = {'settings': measuring(name, args), 'minutes': watch.minutes, 'found': runner.test()}
    rows = chosen_rows(runner.model.num_classes, None, 10)
    write_png(folder / 'grid.png', class_grid(runner.model, rows, 10, 0, 'ema'))
    gates = [part.gate for part in runner.model.modules() if hasattr(part, 'gate')]
    if gates:
        record['gates'] = sum(float(gate.detach().abs().mean()) for gate in gates) / len(gates)
        for gate in gates:
            torch.nn.init.zeros_(gate)
        record['shut'] = runner.test()
    record_of(folder, args).write_text(json.dumps(record, indent=1) + '\n')


def stopwatch(path: Path, interval: int):
    """A hook that keeps the CPU minutes of a training in ``path`` with every checkpoint.

    A killed training begins again at its last checkpoint, with the minutes it had there.
    """
    from mmengine.hooks import Hook

    class Stopwatch(Hook):
        minutes = json.loads(path.read_text())['minutes'] if path.exists() else 0.0

        def before_train(self, runner):
            self.began = time.process_time() - 60 * self.minutes

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if self.every_n_train_iters(runner, interval) or self.is_last_train_iter(runner):
                self.minutes = (time.process_time() - self.began) / 60
                path.write_text(json.dumps({'minutes': self.minutes}))

    return Stopwatch()


def record_of(folder: Path, args: argparse.Namespace) -> Path:
    """File of a measurement."""
    return folder / ('record.json' if args.split == 'test' else f'record_{args.split}.json')


def measuring(name: str, args: argparse.Namespace) -> dict:
    """What a measurement depends on besides the training."""
    return {'fakes': SETS[name]['fakes'], 'split': args.split, 'measures': list(MEASURES)}


def measured(folder: Path, name: str, args: argparse.Namespace) -> dict | None:
    """Record of a run; None: it is not finished, or was measured in another way."""
    path = record_of(folder, args)
    record = json.loads(path.read_text()) if path.exists() else {}
    return record if record.get('settings') == measuring(name, args) else None


def folder_of(name: str, method: str, seed: int, args: argparse.Namespace) -> Path:
    """Where a training lives."""
    plain = ''.join(c for c in method.lower().replace(' ', '-') if c.isalnum() or c in '-+')
    scale = '' if args.lr_scale == 1 else f'_lr{args.lr_scale:g}'
    return args.work / name / f'{plain}_{seed}{scale}'


def study(name: str, args: argparse.Namespace, began: float) -> None:
    """Run what is missing of a set, then judge it."""
    seeds = [0] if args.quick else list(args.seeds or SETS[name]['seeds'])
    wanted = [(method, seed) for seed in seeds for method in args.methods]
    found = {pair: measured(folder_of(name, *pair, args), name, args) for pair in wanted}
    missing = [pair for pair in wanted if not found[pair]]
    told = [record['minutes'] for record in found.values() if record]
    if args.eta or missing:
        each = f'{sum(told) / len(told):.1f} CPU minutes each so far' if told else 'not timed yet'
        sys.stdout.write(f'{name}: {len(missing)} of {len(wanted)} trainings left, {each}\n')
    if args.eta:
        return
    rows = []
    for method, seed in wanted:
        minutes = (time.monotonic() - began) / 60
        if args.stop_after and minutes > args.stop_after:
            sys.exit(f'stopped after {minutes:.0f} min; start again to go on')
        row = run(name, method, seed, args)
        if row is None:
            continue
        rows.append(row)
        if (method, seed) in missing:
            ema = ', '.join(f'{m} {row["found"]["gan/ema/" + m]:.4g}' for m in MEASURES)
            sys.stdout.write(
                f'{name}, {method}, seed {seed}: {ema}; {row["minutes"]:.1f} CPU min\n'
            )
            sys.stdout.flush()
    if args.split != 'test' or set(args.methods) != set(METHODS):
        return
    if len(rows) < len(wanted):
        sys.exit(f'{name}: another process has the rest; when it is done, start again to report')
    report(name, rows, seeds, args)


def table(rows: list[dict]) -> list[dict]:
    """Rows of the result."""
    made = []
    for method in METHODS:
        runs = [row for row in rows if row['method'] == method]
        metrics = {
            f'{measure}{" raw" if which == "orig" else ""}': summary(
                [run['found'][f'gan/{which}/{measure}'] for run in runs]
            )
            for which in ('ema', 'orig')
            for measure in MEASURES
        }
        if 'shut' in runs[0]:
            metrics['FID-C, gates shut'] = summary([run['shut']['gan/ema/FID-C'] for run in runs])
            metrics['mean gate'] = summary([run['gates'] for run in runs])
        minutes = statistics.median(run['minutes'] for run in runs)
        made.append(
            {'method': method, 'setting': 'test split', 'metrics': metrics,
             'cost': {'minutes': minutes}}
        )  # fmt: skip
    return made


def rates(name: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Method -> factor of its learning rates -> validation FID-C of seed 0, where it was run."""
    found: dict[str, dict[str, float]] = {}
    for method in (BASELINE, OURS):
        for scale in SCALES:
            own = argparse.Namespace(**{**vars(args), 'lr_scale': scale, 'split': 'val'})
            record = measured(folder_of(name, method, 0, own), name, own)
            if record:
                value = record['found']['gan/ema/FID-C']
                found.setdefault(method, {})[f'{scale:g}'] = value
    return found


def judge(rows: list[dict], tuned: dict[str, dict[str, float]]) -> tuple[str, str]:
    """Is CTF+SSL at 70 % better than SN-GAN at 100 %, by more than the seeds scatter?

    Better means a lower FID-C of the averaged generator. 'met': by more than two standard errors of
    the difference, with three seeds or more, and not behind the same GAN without transferred
    features, which would owe the lead to self-supervision alone, and with learning rates that are
    the best for SN-GAN among those that were tried; 'partly': by more than one standard error;
    'not met': else.

    Args:
        rows: Of :func:`table`.
        tuned: Of :func:`rates`.
    """
    told = {row['method']: row['metrics'] for row in rows}
    ours, baseline = (told[name]['FID-C'] for name in (OURS, BASELINE))
    seeds = len(ours['values'])
    error = ((ours['std'] ** 2 + baseline['std'] ** 2) / seeds) ** 0.5
    lead = baseline['mean'] - ours['mean']
    verdict = 'partly' if lead > error else 'not met'
    helps = ours['mean'] <= told[WITHOUT]['FID-C']['mean']
    tried = tuned.get(BASELINE, {})
    at_best = bool(tried) and min(tried, key=tried.__getitem__) == '1'
    if seeds >= 3 and lead > 2 * error and helps and at_best:
        verdict = 'met'
    others = ', '.join(
        f'{name} {metrics["FID-C"]["mean"]:.3g}'
        for name, metrics in told.items()
        if name not in (OURS, BASELINE)
    )
    if lead > 0 and not helps:
        others += f'; {WITHOUT} is ahead, so the lead is that of self-supervision'
    beside = ', '.join(
        f'{measure} {told[OURS][measure]["mean"]:.3g} and {told[BASELINE][measure]["mean"]:.3g}'
        for measure in MEASURES[1:]
    )
    scatter = f'{seeds} seeds, standard error {error:.2g}'
    if seeds == 1:
        scatter = '1 seed: how far seeds scatter is not known'
    why = (
        f'FID-C of {OURS} {ours["mean"]:.3g}, of {BASELINE} {baseline["mean"]:.3g} (averaged '
        f'generators, {scatter}); the others: {others}. Of the two, {beside}.'
    )
    if tuned:
        listed = '; '.join(
            f'{method} ' + ', '.join(f'{value:.3g} (x {scale})' for scale, value in own.items())
            for method, own in tuned.items()
        )
        why += f' With other learning rates, FID-C of seed 0 on validation images: {listed}.'
    return verdict, why


def report(name: str, rows: list[dict], seeds: list[int], args) -> None:
    """Write the result and the pictures."""
    out = (args.work if args.quick or args.iters else HERE) / 'results'
    made = table(rows)
    verdict, why = judge(made, rates(name, args))
    cfg = load(SETS[name]['gan'], args.quick)
    done = json.loads((args.work / name / 'extractor/done.json').read_text())
    write_result(
        out / f'{name}.json',
        claim='with 30 % of the high-quality images removed and a small number of low-quality ones '
        f'CTF-GAN is better than SN-GAN on all images ({name})',
        paper=None,
        command=command('projects/ctf_gan/study.py', set=[name], seeds=args.seeds),
        data={'set': DATA[name], 'iterations': args.iters or cfg.train_cfg.max_iters,
              'protocol': sorted({row['found']['gan/protocol'] for row in rows}),
              'accuracy of the classifier on real test images': done['accuracy/top1']},
        seeds=seeds,
        rows=made,
        verdict=verdict,
        why=why,
    )  # fmt: skip
    figure(name, seeds[0], out / f'{name}_samples.png', args)
    sys.stdout.write(f'{name}: {verdict}: {why}\n')


def figure(name: str, seed: int, path: Path, args: argparse.Namespace) -> None:
    """The grids of all methods side by side, after one of real images of the same classes."""
    import cv2
    from matplotlib.figure import Figure

    grids = {'real (training images)': real_grid(name, args)}
    for method in METHODS:
        grids[method] = cv2.imread(str(folder_of(name, method, seed, args) / 'grid.png'))
    drawing = Figure(figsize=(14, 7.4), layout='constrained')
    panels = list(drawing.subplots(2, 4).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, (title, grid) in zip(panels, grids.items(), strict=False):
        axes.imshow(grid, cmap='gray', interpolation='nearest')
        axes.set_title(title, fontsize=10)
    drawing.suptitle(f'{name}: samples of the averaged generators, one class per row', fontsize=10)
    drawing.savefig(path, dpi=110)


def real_grid(name: str, args: argparse.Namespace):
    """Ten training images of each class that the grids of samples show, uint8 (H, W, 1)."""
    import torch
    from mmengine.registry import DATASETS

    from mmext.plugins.ctf_gan.pictures import chosen_rows, grid_of

    cfg = load(SETS[name]['gan'], args.quick)
    dataset = DATASETS.build(cfg.train_dataloader.dataset.datasets[0].dataset)
    places: dict[int, list[int]] = {}
    for index in range(len(dataset)):
        places.setdefault(dataset.get_cat_ids(index)[0], []).append(index)
    rows = chosen_rows(cfg.model.generator.num_classes, None, 10)
    chosen = [index for label in rows for index in (10 * places[label])[:10]]
    return grid_of(torch.stack([dataset[index]['inputs']['img'] for index in chosen]), 10)


def main() -> None:
    """Study the sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a minute, no result file')
    parser.add_argument('--work', type=Path, default=ROOT / 'work_dirs/ctf_gan_study')
    parser.add_argument('--set', dest='sets', nargs='+', choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument('--seeds', type=int, nargs='+', help='default: 0 1 2, glyphs: 0')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS),
                        help='no report unless all')  # fmt: skip
    parser.add_argument('--split', choices=('test', 'val'), default='test',
                        help='images that measure; no report with val')  # fmt: skip
    parser.add_argument('--lr-scale', type=float, default=1, help='factor of the learning rates')
    parser.add_argument('--iters', type=int, help='another length; the result stays in --work')
    parser.add_argument('--stop-after', type=float, help='minutes, after which to leave off')
    parser.add_argument('--eta', action='store_true', help='only say what is left')
    args = parser.parse_args()
    if args.lr_scale != 1 and args.split == 'test':
        parser.error('a learning rate must not be chosen by test images: --split val')

    import mmext  # noqa: F401

    began = time.monotonic()
    for name in args.sets:
        try:
            study(name, args, began)
        except FileNotFoundError as error:
            # Chinese fonts; the message names the packages.
            sys.exit(f'{name}: {error}')


if __name__ == '__main__':
    main()
