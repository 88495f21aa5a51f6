"""Adaptation with three networks: source only, each loss, each pair of losses, all three.

Digits from fonts to handwriting and back, 200 glyphs from one family of fonts to another. Every run
of a task has the same data, batches, iterations and schedule; the label-free settings are those of
the shipped configs. Accuracy is that on the target's test split after the last iteration; the
oracle, chosen with target labels, and label-free choices stand beside it. Runs are records in the
work folder, so a killed study goes on.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

import figures  # noqa: E402
import judge  # noqa: E402
import runs  # noqa: E402
import torch  # noqa: E402
from evidence import command, write_result  # noqa: E402
from mmengine.config import Config  # noqa: E402

from mmext.engine.records import Records  # noqa: E402

SEEDS = [0, 1, 2, 3, 4]
#: Methods of the networks to compare with; ConvMNet has all.
COMPARED = ('source only', 'MMD (as DAN)', 'all three')
#: Runs whose features are drawn.
EMBEDDED = [('font2hand', 'ConvMNet', method, 0) for method in ('source only', 'all three')]
CLAIMS = {
    'losses': 'invariance, low divergence and adapted labels together beat each alone',
    'accuracy': 'Conv-M has the accuracy of GoogLeNet, in classification and adaptation, with 59 % '
    'of its parameters',
    'ability': 'small networks lose the ability to adapt, Conv-M does not',
}
PAPER = {
    'losses': 'best on 16 of 18 tasks of Office-31 and Office-Caltech',
    'accuracy': '4.1 million parameters, 59 % of GoogLeNet',
    'ability': None,
}


def plan(args: argparse.Namespace) -> list[tuple[str, str, str, int]]:
    """All runs: task, network, method, seed. Seeds are outermost: an early stop is even."""
    if args.quick:
        return [
            ('font2hand', network, method, 0)
            for network in runs.NETWORKS
            for method in (COMPARED if network == 'ConvMNet' else ('source only', 'all three'))
        ]
    return [
        (task, network, method, seed)
        for seed in SEEDS[: args.seeds]
        for task in args.tasks
        for network in runs.NETWORKS
        for method in (runs.METHODS if network == 'ConvMNet' else COMPARED)
    ]


class Clock:
    """Remaining time, from the minutes that the runs of a kind took."""

    def __init__(self) -> None:
        self.minutes: dict[tuple[str, ...], list[float]] = {}

    def add(self, kind: tuple[str, ...], minutes: float) -> None:
        """Note a run."""
        self.minutes.setdefault(kind, []).append(minutes)

    def left(self, kinds: list[tuple[str, ...]]) -> float:
        """Minutes for runs of these kinds; one that never ran counts as the mean of all."""
        known = {kind: sum(found) / len(found) for kind, found in self.minutes.items()}
        mean = sum(known.values()) / len(known)
        return sum(known.get(kind, mean) for kind in kinds)


def run_all(args: argparse.Namespace, records: Records) -> list[dict]:
    """Make the records that are missing and return those of the plan."""
    todo = plan(args)
    key = ('task', 'network', 'method', 'seed')
    done = {tuple(row[k] for k in key): row for row in records.rows}
    clock = Clock()
    for run, row in done.items():
        clock.add(run[:3], row['wall_minutes'])
    missing = [run for run in todo if run not in done]
    began = time.monotonic()
    for number, run in enumerate(missing):
        if args.stop_after and time.monotonic() - began > 60 * args.stop_after:
            sys.stdout.write(f'stopped, {len(missing) - number} runs are left; start again\n')
            sys.exit(75)
        task, network, method, seed = run
        start = time.monotonic()
        found, model = runs.train(task, network, method, seed, args.work, args.quick)
        row = dict(zip(key, run, strict=True)) | found
        row['wall_minutes'] = (time.monotonic() - start) / 60
        if run in EMBEDDED:
            row['embedding'] = runs.embedding(task, model, args.quick)
        records.append([row])
        done[run] = row
        clock.add(run[:3], row['wall_minutes'])
        left = clock.left([other[:3] for other in missing[number + 1 :]])
        sys.stdout.write(
            f'{number + 1}/{len(missing)} {task}, {network}, {method}, seed {seed}: target test '
            f'{found["test"]:.1f} %, {row["wall_minutes"]:.1f} min; about {left:.0f} min left\n'
        )
        sys.stdout.flush()
    return [done[run] for run in todo]


def main() -> None:
    """Run, judge, write results and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a few iterations of seven runs')
    parser.add_argument('--tasks', nargs='+', choices=runs.TASKS, default=list(runs.TASKS))
    parser.add_argument('--seeds', type=int, default=len(SEEDS), help='the first n of five')
    parser.add_argument('--work', type=Path, default=ROOT / 'work_dirs/conv_m')
    parser.add_argument('--stop-after', type=float, help='minutes, after which to leave off')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    # MMEngine formats a config for every run, for seconds, and nobody reads these.
    Config.pretty_text = property(lambda cfg: '')
    settings = {
        'quick': args.quick,
        'configs': {task: runs.fingerprint(task) for task in runs.TASKS},
        'networks': {name: backbone for name, (backbone, _) in runs.NETWORKS.items()},
    }
    name = 'quick.jsonl' if args.quick else 'records.jsonl'
    rows = run_all(args, Records(args.work / name, settings))
    tasks = list(dict.fromkeys(row['task'] for row in rows))
    costs = runs.costs(rounds=3 if args.quick else 30)
    out = (args.work if args.quick else Path(__file__).resolve().parent) / 'results'
    for claim, (table, verdict, why) in judge.results(rows, costs).items():
        if args.quick:
            verdict, why = 'not testable here', '--quick: a few iterations, to see that it runs.'
        write_result(
            out / f'{claim}.json',
            claim=CLAIMS[claim],
            paper=PAPER[claim],
            command=command(
                'projects/conv_m/study.py',
                seeds=None if args.seeds >= len(SEEDS) else [args.seeds],
                tasks=None if args.tasks == list(runs.TASKS) else args.tasks,
            ),
            data={task: runs.sizes(task, args.quick) for task in tasks},
            seeds=sorted({row['seed'] for row in rows}),
            rows=table,
            verdict=verdict,
            why=why,
        )
        sys.stdout.write(f'{claim}: {verdict}: {why}\n')
    figures.draw(out)


if __name__ == '__main__':
    main()
