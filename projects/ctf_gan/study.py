"""Does CTF with self-supervision on 70 % of the images beat SN-GAN on all of them?

Six GANs, the paper's ablation as far as it is known, on handwritten digits and on 1,000 Chinese
characters: same networks, real images a step, optimizers and iterations. Measured on test images
with the features of a classifier that was trained on all real training images: FID-C, IS-C and the
accuracy of class-conditional samples, of the averaged generator and of the last one. What is done
is kept in the work folder, so a killed study goes on; ``--eta`` says what is left without running
it.
"""

import argparse
import copy
import hashlib
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(ROOT)]

from evidence import summary, write_result  # noqa: E402

#: Method -> what it has. LQ images are a tenth of the whole set, made of the removed 30 %.
METHODS: dict[str, dict] = {
    'SN-GAN 100 %': dict(hq_ratio=1.0),
    'SN-GAN 70 %': dict(),
    'SN-GAN 70 % + LQ as real': dict(lq=True),
    'SS-GAN 70 %': dict(ssl=True),
    'CTF 70 %': dict(lq=True, transfer=True),
    'CTF+SSL 70 %': dict(lq=True, transfer=True, ssl=True),
}
BASELINE, OURS = 'SN-GAN 100 %', 'CTF+SSL 70 %'
#: Set -> GAN, classifier, its last checkpoint and, for the full study, the seeds.
SETS: dict[str, dict] = {
    'digits': dict(gan='ctf-gan-ssl_digits.py', extractor='extractor_digits.py', epochs=40,
                   seeds=(0, 1, 2)),
    'glyphs': dict(gan='ctf-gan-ssl_glyphs1000.py', extractor='extractor_glyphs1000.py', epochs=8,
                   seeds=(0,)),
}  # fmt: skip
DATA = {
    'digits': '1,078 handwritten digits of 10 classes, 28 px; 359 for the test',
    'glyphs': '20,000 drawings of 1,000 characters of GB2312 in 4 fonts, 32 px; 2,000 for the test',
}
MEASURES = ('FID-C', 'IS-C', 'accuracy')


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


def train_extractor(name: str, args: argparse.Namespace) -> tuple[str, str, float]:
    """Train the classifier of a set once; return config, checkpoint and its test accuracy."""
    from mmengine.runner import Runner

    folder = args.work / name / 'extractor'
    done = folder / 'done.json'
    cfg = load(SETS[name]['extractor'], args.quick)
    cfg.work_dir = str(folder)
    cfg.randomness = dict(seed=0)
    path = folder / 'extractor.py'
    checkpoint = folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
        cfg.resume = True
        runner = Runner.from_cfg(cfg)
        runner.train()
        cfg.dump(path)
        done.write_text(json.dumps(runner.test()))
    return str(path), str(checkpoint), json.loads(done.read_text())['accuracy/top1']


def configure(cfg, method: str, seed: int, extractor: dict) -> None:
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
    cfg.test_evaluator = dict(type='mmext.GenerativeMetrics', split='test', extractor=extractor)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(interval=250, max_keep_ckpts=1)
    cfg.randomness = dict(seed=seed)
    cfg.resume = True


def train_and_measure(name: str, method: str, seed: int, extractor: dict, args) -> dict:
    """Train one GAN through the Runner, from its last checkpoint if there is one, and test it."""
    import torch
    from mmengine.runner import Runner

    from mmext.plugins.ctf_gan.pictures import chosen_rows, class_grid, write_png

    cfg = load(SETS[name]['gan'], args.quick)
    configure(cfg, method, seed, extractor)
    folder = folder_of(name, method, seed, args)
    cfg.work_dir = str(folder)
    cfg.experiment_name = f'{name}-{folder.name}'
    if args.iters:
        cfg.train_cfg.max_iters = args.iters
        cfg.param_scheduler[0].update(begin=args.iters // 2, end=args.iters)
    torch.set_num_threads(1)
    began = time.process_time()
    runner = Runner.from_cfg(cfg)
    runner.train()
    minutes = (time.process_time() - began) / 60
    found = runner.test()
    rows = chosen_rows(runner.model.num_classes, None, 10)
    write_png(folder / 'samples.png', class_grid(runner.model, rows, 10, 0, 'ema'))
    return {
        'set': name,
        'method': method,
        'seed': seed,
        'minutes': minutes,
        'iterations': runner.iter,
        'found': found,
    }


def digest(cfg) -> str:
    """Changes when a setting of any method does, wherever the checkout lies."""
    told = []
    for method in METHODS:
        own = copy.deepcopy(cfg)
        configure(own, method, 0, {})
        told.append(repr(own._cfg_dict).replace(str(ROOT), ''))
    return hashlib.sha256(' '.join(told).encode()).hexdigest()


def folder_of(name: str, method: str, seed: int, args: argparse.Namespace) -> Path:
    """Where a training lives."""
    plain = ''.join(c for c in method.lower().replace(' ', '-') if c.isalnum() or c in '-+')
    return args.work / name / f'{plain}_{seed}'


def study(name: str, args: argparse.Namespace, began: float) -> None:
    """Train what is missing of a set, then judge it."""
    from mmext.engine.records import Records

    seeds = [0] if args.quick else list(args.seeds or SETS[name]['seeds'])
    cfg = load(SETS[name]['gan'], args.quick)
    iters = args.iters or cfg.train_cfg.max_iters
    settings = {'set': name, 'iterations': iters, 'configs': digest(cfg)}
    records = Records(args.work / name / 'records.jsonl', settings)
    wanted = [(method, seed) for seed in seeds for method in METHODS]
    done = {(row['method'], row['seed']) for row in records.rows}
    missing = [pair for pair in wanted if pair not in done]
    told = [row['minutes'] for row in records.rows]
    if args.eta or missing:
        each = f'{sum(told) / len(told):.1f} CPU minutes each so far' if told else 'not timed yet'
        sys.stdout.write(f'{name}: {len(missing)} of {len(wanted)} trainings left, {each}\n')
    if args.eta:
        return
    config, checkpoint, accuracy = train_extractor(name, args)
    extractor = dict(type='classifier', config=config, checkpoint=checkpoint)
    for number, (method, seed) in enumerate(missing):
        minutes = (time.monotonic() - began) / 60
        if args.stop_after and minutes > args.stop_after:
            sys.exit(f'stopped after {minutes:.0f} min; start again to go on')
        row = train_and_measure(name, method, seed, extractor, args)
        records.append([row])
        left = len(missing) - number - 1
        ema = ', '.join(f'{m} {row["found"]["gan/ema/" + m]:.4g}' for m in MEASURES)
        sys.stdout.write(
            f'{name}, {method}, seed {seed}: {ema}; {row["minutes"]:.1f} CPU min, about '
            f'{left * row["minutes"]:.0f} left for this set\n'
        )
        sys.stdout.flush()
    rows = [row for row in records.rows if (row['method'], row['seed']) in set(wanted)]
    report(name, rows, seeds, iters, accuracy, args)


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
        minutes = sum(run['minutes'] for run in runs) / len(runs)
        made.append(
            {'method': method, 'setting': 'test split', 'metrics': metrics,
             'cost': {'minutes': minutes}}
        )  # fmt: skip
    return made


def judge(rows: list[dict]) -> tuple[str, str]:
    """Is CTF+SSL at 70 % better than SN-GAN at 100 %, by more than the seeds scatter?

    Better means a lower FID-C and a higher IS-C of the averaged generator. 'met': both, each by
    more than the standard error of the difference (any gap counts with one seed);
    'partly': one of them, or both with fewer than three seeds; 'not met': none.
    """
    told = {row['method']: row['metrics'] for row in rows}
    ours, baseline = told[OURS], told[BASELINE]
    held, parts = [], []
    for measure, sign in (('FID-C', -1), ('IS-C', 1)):
        first, second = ours[measure], baseline[measure]
        count = len(first['values'])
        error = ((first['std'] ** 2 + second['std'] ** 2) / count) ** 0.5
        held.append(sign * (first['mean'] - second['mean']) > error)
        parts.append(
            f'{measure} {first["mean"]:.3g} against {second["mean"]:.3g} (standard error '
            f'{error:.2g})'
        )
    seeds = len(ours['FID-C']['values'])
    verdict = 'met' if all(held) and seeds >= 3 else 'partly' if any(held) else 'not met'
    others = ', '.join(
        f'{name} {metrics["FID-C"]["mean"]:.3g}'
        for name, metrics in told.items()
        if name not in (OURS, BASELINE)
    )
    why = (
        f'{OURS} against {BASELINE}, averaged generators, {seeds} seed{"s" if seeds > 1 else ""}: '
        + ', '.join(parts)
        + f'; accuracy of samples {ours["accuracy"]["mean"]:.3g} % against '
        f'{baseline["accuracy"]["mean"]:.3g} %. FID-C of the others: {others}.'
    )
    return verdict, why


def report(
    name: str, rows: list[dict], seeds: list[int], iters: int, accuracy: float, args
) -> None:
    """Write the result and the pictures."""
    out = (args.work if args.quick or args.iters else HERE) / 'results'
    made = table(rows)
    verdict, why = judge(made)
    protocols = sorted({row['found']['gan/protocol'] for row in rows})
    write_result(
        out / f'{name}.json',
        claim='with 30 % of the high-quality images removed and a small number of low-quality ones '
        f'CTF-GAN is better than SN-GAN on all images ({name})',
        paper=None,
        command='make reproduce PLUGIN=ctf_gan',
        data={'set': DATA[name], 'iterations': iters, 'protocol': protocols,
              'accuracy of the classifier on real test images': accuracy},
        seeds=seeds,
        rows=made,
        verdict=verdict,
        why=why,
    )  # fmt: skip
    figure(name, seeds[0], out / f'{name}_samples.png', args)
    sys.stdout.write(f'{name}: {verdict}: {why}\n')


def figure(name: str, seed: int, path: Path, args: argparse.Namespace) -> None:
    """The grids of all methods side by side."""
    import cv2
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10.5, 7.4), layout='constrained')
    for axes, method in zip(drawing.subplots(2, 3).flat, METHODS, strict=True):
        grid = cv2.imread(str(folder_of(name, method, seed, args) / 'samples.png'))
        axes.imshow(grid, interpolation='nearest')
        axes.set_title(method, fontsize=10)
        axes.set_axis_off()
    drawing.suptitle(f'{name}: samples of the averaged generators, one class per row', fontsize=10)
    drawing.savefig(path, dpi=130)


def main() -> None:
    """Study the sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a minute, no result file')
    parser.add_argument('--work', type=Path, default=ROOT / 'work_dirs/ctf_gan_study')
    parser.add_argument('--set', dest='sets', nargs='+', choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument('--seeds', type=int, nargs='+', help='default: 0 1 2')
    parser.add_argument('--iters', type=int, help='another length; the result stays in --work')
    parser.add_argument('--stop-after', type=float, help='minutes, after which to leave off')
    parser.add_argument('--eta', action='store_true', help='only say what is left')
    args = parser.parse_args()

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
