"""Success and L2 distance against the number of gradients: guided CW, CW, DDN and FMN.

The learning rate of tuned CW is chosen for each budget on validation images. Runs are records in
the work folder; what is there is not done again. With ``--untuned IMAGES`` it only attacks networks
of the zoo with 100 gradients, beside DDN, and a linear model whose optimum is known.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from benchmark import options  # noqa: E402
from evidence import row, write_result  # noqa: E402
from harness.folders import write_json  # noqa: E402
from harness.grid import UNFINISHED  # noqa: E402
from victims import Victim, from_zoo, load  # noqa: E402

from mmext.attacks.adversarial import attack_mode, logits_fn  # noqa: E402
from mmext.plugins.guided_cw import cw_l2, ddn, fmn  # noqa: E402

BUDGETS = ((5, 20), (5, 50), (9, 100), (9, 300))
RATES = (0.03, 0.1, 0.3)
BEGAN = time.monotonic()
SEEDS, IMAGES = (0, 1, 2), 20
METHODS = ('CW', 'CW, tuned lr', 'guided CW', 'DDN', 'FMN')
ZOO = ('lenet_mnist', 'lenet_fashion-mnist', 'c1_cifar10-jpeg', 'resnet20_cifar10-jpeg')


def run(method: str, victim, budget, lr: float = 0.01) -> dict:
    """Attack all images of a victim; L2 is None where the attack failed."""
    search_steps, steps = budget
    began = time.process_time()
    with attack_mode(victim.model):
        data = logits_fn(victim.model), victim.images, victim.labels
        if method in ('DDN', 'FMN'):
            result = (ddn if method == 'DDN' else fmn)(*data, steps=search_steps * steps)
        else:
            guided = method == 'guided CW'
            result = cw_l2(
                *data, steps=steps, search_steps=search_steps, lr=None if guided else lr,
                abort_early=False, guide='gradient' if guided else 'none',
            )  # fmt: skip
    return {
        'l2': [value if np.isfinite(value) else None for value in result.l2.tolist()],
        'first': result.first_success.tolist(),
        'gradients': result.n_backward / len(victim.images),
        'seconds': time.process_time() - began,
        'lr': lr,
        'accuracy': victim.accuracy,
    }


def l2_of(record: dict) -> np.ndarray:
    """Distances with inf for failures."""
    return np.array([np.inf if value is None else value for value in record['l2']])


def tuned(method: str, budget, victim) -> float:
    """Learning rate of the least mean distance, failures counted as 10."""
    runs = {lr: np.minimum(l2_of(run(method, victim, budget, lr)), 10).mean() for lr in RATES}
    return min(runs, key=runs.__getitem__)


def record(args, name: str, seed: int, method: str, budget) -> dict:
    """The record of one run, made where it does not exist."""
    images, told = 6 if args.quick else IMAGES, f'{method}_{budget[0]}x{budget[1]}'
    path = args.work_dir / 'budget' / f'{name}_{seed}_{told}.json'
    if path.exists():
        return json.loads(path.read_text())
    if (time.monotonic() - BEGAN) / 60 > args.stop_after:
        sys.exit(UNFINISHED)
    lr = 0.01
    if method.endswith('tuned lr'):
        chosen = args.work_dir / 'budget' / f'{name}_lr_{told}.json'
        if not chosen.exists():
            val = load(name, SEEDS[0], 'val', images // 2, args.work_dir, args.quick)
            write_json(chosen, {'lr': tuned(method, budget, val)})
        lr = json.loads(chosen.read_text())['lr']
    victim = load(name, seed, 'test', images, args.work_dir, args.quick)
    made = run(method, victim, budget, lr)
    write_json(path, made)
    print(f'{path.stem}: {made["seconds"]:.0f} s', flush=True)
    return made


def metrics(runs: list[dict]) -> dict[str, list[float]]:
    """Values of the seeds."""
    found = [l2_of(run) for run in runs]
    # A failure counts as the median's upper end; JSON has no infinity, so it is left out there.
    medians = [float(np.median(values)) for values in found]
    told = {'success %': [100 * float(np.isfinite(values).mean()) for values in found]}
    return told | ({'median L2': medians} if all(np.isfinite(medians)) else {})


def compare(guided: list[dict], plain: list[dict]) -> dict[str, bool]:
    """The paper's three claims for one budget; L2 and steps over images that both reach."""
    a, b = (np.concatenate([l2_of(run) for run in runs]) for runs in (guided, plain))
    first = [np.concatenate([run['first'] for run in runs]) for runs in (guided, plain)]
    both = np.isfinite(a) & np.isfinite(b)
    any_both = bool(both.any())
    return {
        'higher success': bool(np.isfinite(a).sum() > np.isfinite(b).sum()),
        'smaller L2': any_both and bool(a[both].mean() < b[both].mean()),
        'fewer iterations': any_both
        and bool(np.median(first[0][both]) < np.median(first[1][both])),
    }


def judge(runs: dict, budgets) -> tuple[str, str]:
    """Verdict on the three claims at equal budget, and why."""
    told, held, best = [], [], []
    for budget in budgets:
        parts = []
        for name, form in (('CW at lr 0.01', 'CW'), ('CW, tuned lr', 'CW, tuned lr')):
            claims = compare(runs['guided CW', budget], runs[form, budget])
            held += claims.values()
            parts.append(f'{name}: {", ".join(k for k, v in claims.items() if v) or "none"}')
        told.append(f'{budget[0]}x{budget[1]} ({"; ".join(parts)})')
        medians = {m: np.median(np.concatenate([*map(l2_of, runs[m, budget])])) for m in METHODS}
        best.append(min(medians, key=medians.__getitem__))
    verdict = 'met' if all(held) else 'partly' if any(held) else 'not met'
    return verdict, (
        'claims that hold for guided CW, which has no learning rate to tune, at the same budget: '
        f'{"; ".join(told)}. Least median L2 of all methods by budget: {", ".join(best)}.'
    )


def linear_excess(gradients: int) -> float:
    """Largest distance of guided CW over the optimum of linear models of several scales, in %."""
    excess = []
    for scale, margin in itertools.product((0.01, 1, 100), repeat=2):
        draws = torch.Generator().manual_seed(0)
        weight = torch.randn(64, generator=draws) * torch.rand(64, generator=draws) ** 2
        images = scale * (0.5 + 0.02 * torch.randn(16, 64, generator=draws))

        def net(x, scale=scale, margin=margin, weight=weight):
            half = margin * ((x / scale - 0.5) @ weight + 0.6)
            return torch.stack([half, -half], 1)

        found = cw_l2(
            net, images, net(images).argmax(1), steps=gradients // 5, search_steps=5,
            guide='gradient', bounds=(0, scale),
        )  # fmt: skip
        optimum = (net(images)[:, 0] / margin * scale / weight.norm()).abs()
        excess.append(float(100 * (found.l2 / optimum - 1).max()))
    return max(excess)


def untuned(images: int, out: Path) -> None:
    """Compare guided CW, which has nothing to tune, with DDN at 100 gradients on the zoo."""
    rows, held, told = [], [], []
    for name in ZOO:
        victim: Victim = from_zoo(name, images)
        runs = {method: run(method, victim, (5, 20)) for method in ('CW', 'guided CW', 'DDN')}
        for method, made in runs.items():
            l2, cost = l2_of(made), {'seconds/image': made['seconds'] / len(made['l2'])}
            found = {'success %': [100 * float(np.isfinite(l2).mean())]}
            if np.isfinite(l2).all():
                found |= {'mean L2': [float(l2.mean())], 'median L2': [float(np.median(l2))]}
            rows.append(row(method, name, found, cost=cost))
        guided, other = l2_of(runs['guided CW']), l2_of(runs['DDN'])
        ratios = guided.mean() / other.mean(), np.median(guided) / np.median(other)
        held.append(bool(np.isfinite(guided).all() and max(ratios) <= 1.1))
        told.append(f'{name} {ratios[0]:.3f} and {ratios[1]:.3f}')
        print(told[-1], flush=True)
    linear = {gradients: linear_excess(gradients) for gradients in (20, 200)}
    held += [linear[20] <= 30, linear[200] <= 6]
    write_result(
        out / 'untuned.json',
        claim='guided CW, without a tuned number, succeeds on all images with an L2 of at most 1.1 '
        'times that of DDN at 100 gradients (ours)',
        command=f'python projects/guided_cw/budget.py --untuned {images}',
        data={'set': ', '.join(ZOO), 'images': images},
        rows=rows,
        verdict='met' if all(held) else 'partly' if any(held) else 'not met',
        why=f'mean and median L2 over those of DDN: {"; ".join(told)}. On linear models of nine '
        f'scales of images and margins the largest distance is {linear[20]:.1f} % over the optimum '
        f'with 20 gradients in all and {linear[200]:.1f} % with 200. 1 seed.',
    )  # fmt: skip


def figure(results: dict[str, dict], path: Path) -> None:
    """Success and median L2 against gradients per image, from the JSON files."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.2 * len(results), 5.2), layout='constrained')
    grid = drawing.subplots(2, len(results), squeeze=False)
    for column, (name, result) in zip(grid.T, results.items(), strict=True):
        for method in METHODS:
            rows = [row for row in result['rows'] if row['method'] == method]
            style = '--' if 'tuned' in method else '-'
            colour = {'CW': 'C0', 'gu': 'C3', 'DD': 'C2', 'FM': 'C1'}[method[:2]]
            for axes, metric in zip(column, ('success %', 'median L2'), strict=True):
                shown = [row for row in rows if metric in row['metrics']]
                points = [row['metrics'][metric]['mean'] for row in shown]
                gradients = [row['cost']['gradients'] for row in shown]
                axes.plot(gradients, points, style, marker='.', label=method, c=colour)
                axes.set(xscale='log', xlabel='gradients per image', ylabel=metric)
        column[0].set_title(name)
    grid[0, 0].legend(fontsize=7, frameon=False)
    drawing.savefig(path, dpi=130)


def main() -> None:
    """Attack, judge and write the results and the figure."""
    args = options(
        __doc__, work_dir=ROOT / 'work_dirs/guided_cw', stop_after=float('inf'), untuned=0
    )
    victims, seeds, budgets = ('digits', 'glyphs'), SEEDS, BUDGETS
    if args.quick:
        victims, seeds, budgets = victims[:1], SEEDS[:1], ((2, 10),)
    out = (args.work_dir if args.quick else Path(__file__).resolve().parent) / 'results'
    if args.untuned:
        untuned(args.untuned, out)
        return
    results = {}
    for name in victims:
        runs: dict = {}
        for budget, seed, method in itertools.product(budgets, seeds, METHODS):
            made = record(args, name, seed, method, budget)
            runs.setdefault((method, budget), []).append(made)
        verdict, why = judge(runs, budgets)
        rows = []
        for (method, (search_steps, steps)), made in runs.items():
            setting = f'{search_steps * steps} steps'
            if 'CW' in method:
                setting = f'{search_steps}x{steps}'
                setting += '' if method == 'guided CW' else f', lr {made[0]["lr"]:g}'
            images = sum(len(run['l2']) for run in made)
            cost = {'gradients': made[0]['gradients'],
                    'seconds/image': sum(run['seconds'] for run in made) / images}  # fmt: skip
            rows.append(row(method, setting, metrics(made), cost=cost))
        plain = runs['CW', budgets[0]]
        write_result(
            out / f'budget_{name}.json',
            claim=f'guided CW needs fewer iterations, succeeds more often and has a smaller L2 '
            f'than CW ({name})',
            command='python projects/guided_cw/budget.py',
            data={'set': name, 'images': sum(len(run['l2']) for run in plain),
                  'accuracy %': [run['accuracy'] for run in plain]},
            seeds=seeds,
            rows=rows,
            verdict=verdict,
            why=why,
        )  # fmt: skip
        results[name] = json.loads((out / f'budget_{name}.json').read_text())
        print(f'{name}: {verdict}: {why}')
    figure(results, out / 'budget.png')


if __name__ == '__main__':
    main()
