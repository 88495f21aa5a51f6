"""Throughput of encoding and decoding on this CPU, with one and with two threads."""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

import torch  # noqa: E402
from evidence import summary, write_result  # noqa: E402

from mmext.plugins.terngrad.functional import (  # noqa: E402
    clip_limits,
    pack_ternary,
    scalers,
    ternarize,
    unpack_ternary,
)

LAYERS, NUMEL = 8, 1_400_000


def steps(packing: str):
    """Named parts of the codec on eight layers of 1.4 million elements."""
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(NUMEL, generator=generator) * 1e-3 for _ in range(LAYERS)]
    limits = clip_limits(grads, 2.5)
    scales = scalers(grads, limits)
    codes = torch.empty(LAYERS * NUMEL, dtype=torch.int8)
    mean = torch.empty(LAYERS * NUMEL)

    def statistics() -> None:
        scalers(grads, clip_limits(grads, 2.5))

    def draw() -> None:
        for grad, scale, limit, part in zip(grads, scales, limits, codes.split(NUMEL), strict=True):
            ternarize(grad, scale, generator, limit, out=part)

    draw()
    packed = pack_ternary(codes, packing)

    def decode() -> None:
        sums = unpack_ternary(packed, codes.numel(), packing)
        for part, target, scale in zip(sums.split(NUMEL), mean.split(NUMEL), scales, strict=True):
            target.copy_(part).mul_(scale)

    return {
        'clip and scaler': statistics,
        'draw': draw,
        'pack': lambda: pack_ternary(codes, packing),
        'decode': decode,
    }


def measure(rounds: int) -> dict[tuple[str, int], dict[str, list[float]]]:
    """Seconds of each part; packings and thread counts take turns."""
    parts = {packing: steps(packing) for packing in ('base3', '2bit')}
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for index in range(rounds + 1):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for packing, calls in parts.items():
                times = found.setdefault((packing, threads), {name: [] for name in calls})
                for name, call in calls.items():
                    began = time.perf_counter()
                    call()
                    if index:
                        times[name].append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measure and write results/codec.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--quick', action='store_true', help='1 round, no result file')
    args = parser.parse_args()
    found = measure(1 if args.quick else args.rounds)
    total = LAYERS * NUMEL / 1e6
    rows = []
    for (packing, threads), times in found.items():
        columns = {name: [total / value for value in values] for name, values in times.items()}
        encode = [
            total / sum(parts)
            for parts in zip(
                *(values for name, values in times.items() if name != 'decode'), strict=True
            )
        ]
        rows.append(
            {
                'method': f'{packing}, {threads} thread{"s"[: threads > 1]}',
                'setting': f'{LAYERS} layers of {NUMEL} elements, M elements/s',
                'metrics': {
                    'encode': summary(encode),
                    **{name: summary(values) for name, values in columns.items()},
                },
                'cost': {'best encode': max(encode), 'best decode': max(columns['decode'])},
            }
        )
    for row in rows:
        print(row['method'], {k: round(v['mean']) for k, v in row['metrics'].items()}, row['cost'])
    if args.quick:
        return
    pair = next(row for row in rows if row['method'] == 'base3, 2 threads')['metrics']['encode']
    write_result(
        Path(__file__).resolve().parent / 'results/codec.json',
        claim='encoding (clip, scaler, draw, pack) of 400 M elements/s on two cores',
        paper=None,
        command='python projects/terngrad/codec.py',
        data={'set': 'Gaussian gradients'},
        seeds=[0],
        rows=rows,
        verdict='met' if pair['mean'] >= 400 else 'not met',
        why=f'{pair["mean"]:.0f} on average, {max(pair["values"]):.0f} at best; all columns are M '
        'elements/s. Other programs shared the two cores. One thread draws the random bits, 16 for '
        'each element.',
    )


if __name__ == '__main__':
    main()
