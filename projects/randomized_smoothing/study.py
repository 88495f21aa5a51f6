"""Does ADRE raise the certified radius, and does T-CERTIFY raise it again at the same samples?

Four trainings (Gaussian noise, ADRE, SmoothAdv, ADRE at adversarial images), same network, batches,
steps and number of noisy copies, on handwritten digits and on 100 glyph classes; each certified by
both bounds from the same samples. The weight of the regulariser and the strength of the attack are
chosen on validation images, at the middle sigma of a set and a seed of their own.

Every run leaves a JSON file below ``--work-dir``; runs that have one are not done again.
"""

import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmpretrain.structures import DataSample

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

from benchmark import options  # noqa: E402
from evidence import paired, row, write_result  # noqa: E402
from harness.folders import write_json  # noqa: E402
from harness.grid import UNFINISHED  # noqa: E402

from mmext.plugins.randomized_smoothing import SmoothedClassifier  # noqa: E402

RESULTS = ROOT / 'projects/randomized_smoothing/results'
CONFIGS = ROOT / 'configs/randomized_smoothing'
METHODS = ('Gaussian', 'ADRE', 'SmoothAdv', 'ADRE + adversarial')
BOUNDS = ('cohen', 't_certify')
WEIGHTS = (0.1, 0.3, 1.0)
TUNING_SEED = 100
ALPHA, N0 = 0.001, 100


@dataclass
class Plan:
    """One data set of the study."""

    config: str
    sigmas: tuple[float, ...]
    tune_at: float
    epochs: int
    eps: tuple[float, ...]
    images: int = 50
    n: int = 10_000
    seeds: tuple[int, ...] = (0, 1, 2)


PLANS = {
    'digits': Plan('adre_lenet_digits.py', (0.25, 0.5, 1.0), 0.5, 8, (0.5, 1.0)),
    'glyphs': Plan('adre_lenet_glyphs.py', (1.0,), 1.0, 5, (0.25, 0.5)),
}
QUICK = {
    'digits': Plan('adre_lenet_digits.py', (1.0,), 1.0, 1, (1.0,), images=4, n=200, seeds=(0,))
}


@cache
def load(config: str, split: str, step: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Every so many images, uint8, and labels of a split."""
    dataset = DATASETS.build(Config.fromfile(CONFIGS / config)[f'{split}_dataloader'].dataset)
    items = [dataset[index] for index in range(0, len(dataset), step)]
    labels = torch.cat([item['data_samples'].gt_label for item in items])
    return torch.stack([item['inputs'] for item in items]), labels


class Study:
    """Runs of one plan, kept on disk."""

    def __init__(self, work_dir: Path, deadline: float, quick: bool) -> None:
        self.work_dir, self.deadline, self.quick = work_dir, deadline, quick
        self.plans = QUICK if quick else PLANS

    def run(self, name: str, sigma: float, settings: dict, seed: int, split: str) -> dict:
        """Train and certify one model, or read what it gave."""
        plan = self.plans[name]
        told = '_'.join(f'{key}{value:g}' for key, value in settings.items())
        path = self.work_dir / f'{name}_sigma{sigma:g}_{told}_seed{seed}_{split}.json'
        # Through JSON, as the file went: tuples are lists there.
        settled = json.loads(json.dumps(asdict(plan)))
        if path.exists():
            record = json.loads(path.read_text())
            if record['plan'] == settled:
                return record
        if time.time() > self.deadline:
            print('out of time; start again to go on', flush=True)
            sys.exit(UNFINISHED)
        began = time.process_time()
        model = self.train(plan, sigma, settings, seed)
        trained = time.process_time()
        record = self.certify(plan, model, sigma, split)
        record |= {'plan': settled, 'cpu_minutes': (trained - began) / 60}
        write_json(path, record)
        acr = ', '.join(f'{key} {average(record, key):.4f}' for key in BOUNDS)
        print(f'{path.stem}: ACR {acr}, {time.process_time() - began:.0f} s of CPU', flush=True)
        return record

    def train(self, plan: Plan, sigma: float, settings: dict, seed: int) -> torch.nn.Module:
        """Train a model of the shipped config."""
        cfg = Config.fromfile(CONFIGS / plan.config)
        torch.manual_seed(seed)
        # As a Runner does: the model draws its noise by it.
        MessageHub.get_current_instance().update_info('seed', seed)
        cfg.model.update(sigma=sigma, adre_weight=settings['weight'])
        if settings['eps']:
            cfg.model.adversarial = dict(eps=settings['eps'], steps=2)
        model = MODELS.build(cfg.model)
        model.init_weights()
        model.train()
        images, labels = load(plan.config, 'train', 8 if self.quick else 1)
        size = cfg.train_dataloader.batch_size
        steps = len(images) // size
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            wrapper.optimizer, cfg.param_scheduler[0].eta_max, total_steps=plan.epochs * steps + 1
        )
        step, warm = 0, plan.epochs * steps // 2
        for _ in range(plan.epochs):
            for chosen in torch.randperm(len(images))[: steps * size].split(size):
                samples = [DataSample().set_gt_label(int(labels[index])) for index in chosen]
                step += 1
                if settings['eps']:
                    # At full strength from the start, a network on strong noise learns nothing.
                    model.adversarial['eps'] = settings['eps'] * min(1.0, step / max(warm, 1))
                model.train_step(dict(inputs=images[chosen], data_samples=samples), wrapper)
                schedule.step()
        return model.eval()

    def certify(self, plan: Plan, model: torch.nn.Module, sigma: float, split: str) -> dict:
        """Predictions and radii by both bounds, from the same samples."""
        images, labels = load(plan.config, split)
        # Evenly spread: all classes, the same images for every model.
        chosen = np.linspace(0, len(images) - 1, plan.images).astype(int)
        n = plan.n if split == 'test' else max(plan.n // 10, 100)
        smoothed = SmoothedClassifier(model.classifier, sigma, n0=N0, n=n, alpha=ALPHA)
        inputs = smoothed.data_preprocessor(dict(inputs=images[chosen]))['inputs']
        pixels = smoothed.space.to_pixels(inputs)
        record: dict = {'labels': labels[chosen].tolist()}
        parts = [
            smoothed.sample(pixels[start : start + 16], range(start, start + 16))
            for start in range(0, len(pixels), 16)
        ]
        for method in BOUNDS:
            found = [part.certify(sigma, method) for part in parts]
            prediction, radius = (np.concatenate(part) for part in zip(*found, strict=True))
            record[method] = {'predict': prediction.tolist(), 'radius': radius.tolist()}
        return record

    def settings(self, name: str) -> dict[str, dict]:
        """Settings of the four methods, chosen on validation images."""
        plan = self.plans[name]

        def best(candidates: list[dict]) -> dict:
            scores = [
                average(self.run(name, plan.tune_at, setting, TUNING_SEED, 'val'), 'cohen')
                for setting in candidates
            ]
            return candidates[int(np.argmax(scores))]

        weights = (0.1,) if self.quick else WEIGHTS
        plain = best([dict(weight=weight, eps=0.0) for weight in weights])
        attack = best([dict(weight=0.0, eps=eps) for eps in plan.eps])
        both = best([dict(weight=weight, eps=attack['eps']) for weight in weights])
        return dict(zip(METHODS, (dict(weight=0.0, eps=0.0), plain, attack, both), strict=True))


def correct_radius(record: dict, method: str) -> np.ndarray:
    """Radius of each image, -1 where the prediction is wrong or missing."""
    part = record[method]
    right = np.equal(part['predict'], record['labels'])
    return np.where(right, part['radius'], -1.0)


def average(record: dict, method: str) -> float:
    """Average certified radius."""
    return float(np.maximum(correct_radius(record, method), 0).mean())


def judge(differences: list[list[float]]) -> str:
    """Verdict on per-seed differences of each setting: positive everywhere, somewhere or nowhere.

    A setting counts where the mean exceeds twice its standard error: with less, verdicts changed
    with the draws of the training noise.
    """
    clear = [gain > 2 * error for gain, error in map(paired, differences)]
    return 'met' if all(clear) else 'partly' if any(clear) else 'not met'


def write_results(study: Study, results: Path) -> None:
    """All runs, then the two result files."""
    rows: dict[str, list[dict]] = {'adre': [], 't_certify': []}
    gains: dict[str, list[list[float]]] = {'adre': [], 'adversarial': [], 't_certify': []}
    data = {}
    for name, plan in study.plans.items():
        settings = study.settings(name)
        told = {method: str(setting) for method, setting in settings.items()}
        data[name] = (
            f'{plan.config}: {plan.epochs} epochs, {plan.images} test images, n0 {N0}, '
            f'n {plan.n}, alpha {ALPHA:g}; attacks of 2 steps, full strength from half of the '
            f'steps on; tuned at sigma {plan.tune_at:g}: {told}'
        )
        for sigma in plan.sigmas:
            acr, setting = {}, f'{name}, sigma {sigma:g}'
            for method in METHODS:
                records = [
                    study.run(name, sigma, settings[method], seed, 'test') for seed in plan.seeds
                ]
                acr[method], tight = ([average(r, bound) for r in records] for bound in BOUNDS)
                gain = [a - b for a, b in zip(tight, acr[method], strict=True)]
                gains['t_certify'].append(gain)
                radii = np.linspace(0, 3.3 * sigma, 67)
                curve: dict = {'radius': radii.tolist()}
                for bound in BOUNDS:
                    found = [correct_radius(record, bound) for record in records]
                    shares = ([(part >= at).mean() for part in found] for at in radii)
                    curve[bound] = [float(np.mean(values)) for values in shares]
                hits = [100 * np.mean(correct_radius(record, 'cohen') >= 0) for record in records]
                minutes = float(np.mean([record['cpu_minutes'] for record in records]))
                title = f'{setting}, {method}'
                rows['adre'].append(row(
                    title, setting, {'ACR': acr[method], 'accuracy %': hits}, training=method,
                    cost={'training CPU minutes': minutes}, curve=curve,
                ))  # fmt: skip
                values = {'ACR Cohen': acr[method], 'ACR T-CERTIFY': tight, 'gain': gain}
                rows['t_certify'].append(row(title, setting, values, training=method))
            for key, better, base in (
                ('adre', 'ADRE', 'Gaussian'),
                ('adversarial', 'ADRE + adversarial', 'SmoothAdv'),
            ):
                pairs = zip(acr[better], acr[base], strict=True)
                gains[key].append([a - b for a, b in pairs])
    means = {key: [float(np.mean(values)) for values in found] for key, found in gains.items()}
    listed = {key: ', '.join(f'{value:+.3f}' for value in found) for key, found in means.items()}
    verdicts = {judge(gains['adre']), judge(gains['adversarial'])}
    common = {'command': 'make reproduce PLUGIN=randomized_smoothing', 'data': data,
              'seeds': plan.seeds}  # fmt: skip
    write_result(
        results / 'adre.json',
        claim='ADRE raises the average certified radius over training on noise alone, with and '
        'without adversarial images',
        rows=rows['adre'],
        verdict=verdicts.pop() if len(verdicts) == 1 else 'partly',
        why="Cohen's radius, equal networks, steps and noisy copies. Mean change by setting: over "
        f'Gaussian noise {listed["adre"]}; over SmoothAdv {listed["adversarial"]}.',
        **common,
    )
    write_result(
        results / 't_certify.json',
        claim='T-CERTIFY raises the average certified radius again at the same samples',
        rows=rows['t_certify'],
        verdict=judge(gains['t_certify']),
        why='both bounds on the same counts of the same models; gains between '
        f'{min(means["t_certify"]):+.4f} and {max(means["t_certify"]):+.4f}. Radii saturate at '
        'what n samples allow, so the gain is largest where the noise leaves several classes '
        'likely.',
        **common,
    )


def draw(results: Path) -> None:
    """Draw results/curves.png from adre.json."""
    from matplotlib.figure import Figure

    rows = json.loads((results / 'adre.json').read_text())['rows']
    settings = list(dict.fromkeys(row['setting'] for row in rows))
    lines = (len(settings) + 2) // 3
    figure = Figure(figsize=(11, 2.6 * lines - 0.4), layout='constrained')
    axes = figure.subplots(lines, min(3, len(settings)), squeeze=False).flat
    colours = dict(zip(METHODS, ('tab:gray', 'tab:blue', 'tab:orange', 'tab:red'), strict=True))
    for axis, setting in zip(axes, settings, strict=False):
        shown = [told for told in rows if told['setting'] == setting]
        for told, (bound, style) in itertools.product(shown, zip(BOUNDS, ('-', ':'), strict=True)):
            curve, name = told['curve'], told['training']
            label = name if bound == 'cohen' else None
            values = 100 * np.array(curve[bound])
            axis.plot(curve['radius'], values, style, color=colours[name], label=label)
        axis.set(title=setting, ylim=(0, 102), xlabel='L2 radius (pixels of range [0, 1])',
                 ylabel='certified accuracy (%)')  # fmt: skip
    for axis in figure.axes[len(settings) :]:
        axis.set_visible(False)
    figure.axes[0].plot([], [], ':', color='black', label='with T-CERTIFY')
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(results / 'curves.png', dpi=110)


def main() -> None:
    """Run what is missing, write results/adre.json, results/t_certify.json and the figure."""
    work = ROOT / 'work_dirs/randomized_smoothing'
    args = options(__doc__, work_dir=work, stop_after=float('inf'))
    torch.set_num_threads(1)
    # Initialisation would report every parameter of every model.
    MMLogger.get_instance('study', log_level='ERROR')
    init_default_scope('mmpretrain')
    results = args.work_dir / 'quick_results' if args.quick else RESULTS
    work_dir = args.work_dir / ('quick' if args.quick else 'study')
    write_results(Study(work_dir, time.time() + 60 * args.stop_after, args.quick), results)
    draw(results)


if __name__ == '__main__':
    main()
