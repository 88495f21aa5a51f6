"""Success and L2 distance against the number of gradients: guided CW, CW, DDN and FMN.

The learning rate of the tuned forms is chosen for each budget on validation images. Runs are
records in the work folder; what is there is not done again.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from evidence import summary, write_result  # noqa: E402
from harness.folders import write_json  # noqa: E402
from victims import load  # noqa: E402

import mmext  # noqa: E402, F401
from mmext.engine.adversarial import attack_mode, logits_fn  # noqa: E402
from mmext.plugins.guided_cw import cw_l2, ddn, fmn  # noqa: E402

BUDGETS = ((5, 20), (5, 50), (9, 100), (9, 300))
RATES = (0.03, 0.1, 0.3)
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
    path = args.work / 'budget' / f'{name}_{seed}_{method}_{budget[0]}x{budget[1]}.json'
    if path.exists():
        return json.loads(path.read_text())
    lr = 0.01
    if method.endswith('tuned lr'):
        chosen = args.work / 'budget' / f'{name}_lr_{method}_{budget[0]}x{budget[1]}.json'
        if not chosen.exists():
            val = load(name, args.seeds[0], 'val', args.images // 2, args.work, args.quick)
            write_json(chosen, {'lr': tuned(method, budget, val)})
        lr = json.loads(chosen.read_text())['lr']
    victim = load(name, seed, 'test', args.images, args.work, args.quick)
    made = run(method, victim, budget, lr)
    write_json(path, made)
    sys.stdout.write(f'{path.stem}: {made["seconds"]:.0f} s\n')
    sys.stdout.flush()
    return made


def metrics(runs: list[dict]) -> dict:
    """Summary over the seeds."""
    found = [l2_of(run) for run in runs]
    # A failure counts as the median's upper end; JSON has no infinity, so it is left out there.
    medians = [float(np.median(values)) for values in found]
    told = {'success %': summary([100 * float(np.isfinite(values).mean()) for values in found])}
    if all(np.isfinite(medians)):
        told['median L2'] = summary(medians)
    return told


def compare(guided: list[dict], plain: list[dict]) -> dict[str, bool]:
    """The paper's three claims for one budget; L2 and steps over images that both reach."""
    a, b = (np.concatenate([l2_of(run) for run in runs]) for runs in (guided, plain))
    first = [np.concatenate([run['first'] for run in runs]) for runs in (guided, plain)]
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return {'higher success': bool(np.isfinite(a).sum() > 0), 'smaller L2': False,
                'fewer iterations': False}  # fmt: skip
    return {
        'higher success': bool(np.isfinite(a).sum() > np.isfinite(b).sum()),
        'smaller L2': bool(a[both].mean() < b[both].mean()),
        'fewer iterations': bool(np.median(first[0][both]) < np.median(first[1][both])),
    }


def judge(runs: dict, budgets) -> tuple[str, str]:
    """Verdict on the three claims at equal budget, and why."""
    told, held = [], []
    for budget in budgets:
        against = {
            'lr 0.01': compare(runs['guided CW', budget], runs['CW', budget]),
            'tuned': compare(runs['guided CW, tuned lr', budget], runs['CW, tuned lr', budget]),
        }
        held += [value for claims in against.values() for value in claims.values()]
        parts = [
            f'{name}: {", ".join(k for k, v in claims.items() if v) or "none"}'
            for name, claims in against.items()
        ]
        told.append(f'{budget[0]}x{budget[1]} ({"; ".join(parts)})')
    best = [
        min(METHODS, key=lambda m: np.median(np.concatenate([l2_of(r) for r in runs[m, budget]])))
        for budget in budgets
    ]
    verdict = 'met' if all(held) else 'partly' if any(held) else 'not met'
    return verdict, (
        'claims that hold for guided CW against CW at the same budget and learning rate: '
        + '; '.join(told)
        + '. Least median L2 of all methods by budget: '
        + ', '.join(best)
        + '.'
    )


def figure(results: dict[str, dict], path: Path) -> None:
    """Success and median L2 against gradients per image, from the JSON files."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.2 * len(results), 5.2), layout='constrained')
    grid = drawing.subplots(2, len(results), squeeze=False)
    for column, (name, result) in zip(grid.T, results.items(), strict=True):
        for method in METHODS:
            rows = [row for row in result['rows'] if row['method'] == method]
            for axes, metric in zip(column, ('success %', 'median L2'), strict=True):
                points = [
                    (row['cost']['gradients'], row['metrics'][metric]['mean'])
                    for row in rows
                    if metric in row['metrics']
                ]
                style = '--' if 'tuned' in method else '-'
                colour = {'CW': 'C0', 'gu': 'C3', 'DD': 'C2', 'FM': 'C1'}[method[:2]]
                axes.plot(*zip(*points, strict=True), style, marker='.', label=method, c=colour)
                axes.set(xscale='log', xlabel='gradients per image', ylabel=metric)
        column[0].set_title(name)
    grid[0, 0].legend(fontsize=7, frameon=False)
    drawing.savefig(path, dpi=130)


def main() -> None:
    """Attack, judge and write the results and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a few images, no result file')
    parser.add_argument('--work-dir', dest='work', type=Path, default=ROOT / 'work_dirs/guided_cw')
    parser.add_argument('--victims', nargs='+', default=['digits', 'glyphs'])
    parser.add_argument('--images', type=int, default=20, help='of each seed')
    parser.add_argument('--stop-after', type=float, help='minutes, after which to leave off')
    args = parser.parse_args()
    args.seeds, budgets = [0, 1, 2], BUDGETS
    if args.quick:
        args.seeds, budgets, args.images = [0], ((2, 10),), 6
        args.victims = args.victims[:1]
    began = time.monotonic()
    out = (args.work if args.quick else Path(__file__).resolve().parent) / 'results'
    results = {}
    for name in args.victims:
        runs: dict = {}
        for budget in budgets:
            for seed in args.seeds:
                for method in METHODS:
                    minutes = (time.monotonic() - began) / 60
                    if args.stop_after and minutes > args.stop_after:
                        sys.exit(f'stopped after {minutes:.0f} min; start again to go on')
                    runs.setdefault((method, budget), []).append(
                        record(args, name, seed, method, budget)
                    )
        verdict, why = judge(runs, budgets)
        rows = [
            {
                'method': method,
                'setting': f'{budget[0]}x{budget[1]}, lr {made[0]["lr"]:g}'
                if 'CW' in method
                else f'{budget[0] * budget[1]} steps',
                'metrics': metrics(made),
                'cost': {
                    'gradients': made[0]['gradients'],
                    'seconds/image': sum(r['seconds'] for r in made)
                    / sum(len(r['l2']) for r in made),
                },
            }
            for (method, budget), made in runs.items()
        ]
        write_result(
            out / f'budget_{name}.json',
            claim=f'guided CW needs fewer iterations, succeeds more often and has a smaller L2 '
            f'than CW ({name})',
            paper=None,
            command='python projects/guided_cw/budget.py',
            data={
                'set': name,
                'images': args.images * len(args.seeds),
                'accuracy %': [run['accuracy'] for run in runs['CW', budgets[0]]],
            },
            seeds=args.seeds,
            rows=rows,
            verdict=verdict,
            why=why,
        )
        results[name] = json.loads((out / f'budget_{name}.json').read_text())
        sys.stdout.write(f'{name}: {verdict}: {why}\n')
    figure(results, out / 'budget.png')


if __name__ == '__main__':
    main()
