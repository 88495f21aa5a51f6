"""Success and L2 distance against the number of gradients: guided CW, CW, DDN and FMN.

The learning rate of the tuned forms is chosen for each budget on validation images. Runs are
records in the work folder; what is there is not done again.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from benchmark import options  # noqa: E402
from evidence import row, write_result  # noqa: E402
from harness.folders import write_json  # noqa: E402
from harness.grid import UNFINISHED  # noqa: E402
from victims import load  # noqa: E402

from mmext.attacks.adversarial import attack_mode, logits_fn  # noqa: E402
from mmext.plugins.guided_cw import cw_l2, ddn, fmn  # noqa: E402

BUDGETS = ((5, 20), (5, 50), (9, 100), (9, 300))
RATES = (0.03, 0.1, 0.3)
BEGAN = time.monotonic()
SEEDS, IMAGES = (0, 1, 2), 20
METHODS = ('CW', 'guided CW', 'CW, tuned lr', 'guided CW, tuned lr', 'DDN', 'FMN')


def run(method: str, victim, budget, lr: float = 0.01) -> dict:
    """Attack all images of a victim; L2 is None where the attack failed."""
    search_steps, steps = budget
    began = time.process_time()
    with attack_mode(victim.model):
        data = logits_fn(victim.model), victim.images, victim.labels
        if method in ('DDN', 'FMN'):
            result = (ddn if method == 'DDN' else fmn)(*data, steps=search_steps * steps)
        else:
            result = cw_l2(
                *data, steps=steps, search_steps=search_steps, lr=lr, abort_early=False,
                guide='gradient' if method.startswith('guided') else 'none',
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
        for name, form in (('lr 0.01', ''), ('tuned', ', tuned lr')):
            claims = compare(runs[f'guided CW{form}', budget], runs[f'CW{form}', budget])
            held += claims.values()
            parts.append(f'{name}: {", ".join(k for k, v in claims.items() if v) or "none"}')
        told.append(f'{budget[0]}x{budget[1]} ({"; ".join(parts)})')
        medians = {m: np.median(np.concatenate([*map(l2_of, runs[m, budget])])) for m in METHODS}
        best.append(min(medians, key=medians.__getitem__))
    verdict = 'met' if all(held) else 'partly' if any(held) else 'not met'
    return verdict, (
        'claims that hold for guided CW against CW at the same budget and learning rate: '
        f'{"; ".join(told)}. Least median L2 of all methods by budget: {", ".join(best)}.'
    )


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
    args = options(__doc__, work_dir=ROOT / 'work_dirs/guided_cw', stop_after=float('inf'))
    victims, seeds, budgets = ('digits', 'glyphs'), SEEDS, BUDGETS
    if args.quick:
        victims, seeds, budgets = victims[:1], SEEDS[:1], ((2, 10),)
    out = (args.work_dir if args.quick else Path(__file__).resolve().parent) / 'results'
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
                setting = f'{search_steps}x{steps}, lr {made[0]["lr"]:g}'
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
