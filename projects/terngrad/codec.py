"""Throughput of encoding and decoding on this CPU, with one and with two threads."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects')]

import torch  # noqa: E402
from benchmark import clocked, in_turns, options  # noqa: E402
from evidence import row, write_result  # noqa: E402

from mmext.plugins.terngrad import functional  # noqa: E402

LAYERS, NUMEL = 8, 1_400_000


def steps() -> dict[str, Callable[[], object]]:
    """Named parts of the codec on eight layers of 1.4 million elements."""
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(NUMEL, generator=generator) * 1e-3 for _ in range(LAYERS)]
    limits = functional.clip_limits(grads, 2.5)
    scales = functional.scalers(grads, limits)
    codes = torch.empty(LAYERS * NUMEL, dtype=torch.int8)
    mean = torch.empty(LAYERS * NUMEL)

    def statistics() -> None:
        functional.scalers(grads, functional.clip_limits(grads, 2.5))

    def draw() -> None:
        for grad, scale, limit, part in zip(grads, scales, limits, codes.split(NUMEL), strict=True):
            functional.ternarize(grad, scale, generator, limit, out=part)

    draw()
    packed = functional.pack_ternary(codes)

    def decode() -> None:
        sums = functional.unpack_ternary(packed, codes.numel())
        for part, target, scale in zip(sums.split(NUMEL), mean.split(NUMEL), scales, strict=True):
            target.copy_(part).mul_(scale)

    return {
        'clip and scaler': statistics,
        'draw': draw,
        'pack': lambda: functional.pack_ternary(codes),
        'decode': decode,
    }


def measure(rounds: int) -> dict[tuple[int, str], list[float]]:
    """Seconds by threads and part; thread counts take turns."""

    def way(threads: int, call: Callable[[], object]) -> float:
        torch.set_num_threads(threads)
        return clocked(call)()

    ways = {
        (threads, name): partial(way, threads, call)
        for threads in (1, 2)
        for name, call in steps().items()
    }
    return in_turns(ways, rounds)


def main() -> None:
    """Measure and write results/codec.json."""
    quick = options(__doc__).quick
    found = measure(1 if quick else 15)
    total = LAYERS * NUMEL / 1e6
    rows = []
    for threads in (1, 2):
        times = {part: v for (count, part), v in found.items() if count == threads}
        columns = {part: [total / value for value in values] for part, values in times.items()}
        del times['decode']
        encode = [total / sum(parts) for parts in zip(*times.values(), strict=True)]
        rows.append(row(
            f'base3, {threads} thread{"s"[: threads > 1]}',
            f'{LAYERS} layers of {NUMEL} elements, M elements/s',
            {'encode': encode, **columns},
            cost={'best encode': max(encode), 'best decode': max(columns['decode'])},
        ))  # fmt: skip
        means = {name: round(told['mean']) for name, told in rows[-1]['metrics'].items()}
        print(rows[-1]['method'], means, rows[-1]['cost'])
    if quick:
        return
    pair = next(row for row in rows if row['method'] == 'base3, 2 threads')['metrics']['encode']
    write_result(
        Path(__file__).resolve().parent / 'results/codec.json',
        claim='encoding (clip, scaler, draw, pack) of 400 M elements/s on two cores',
        command='python projects/terngrad/codec.py',
        data={'set': 'Gaussian gradients'},
        rows=rows,
        verdict='met' if pair['mean'] >= 400 else 'not met',
        why=f'{pair["mean"]:.0f} on average, {max(pair["values"]):.0f} at best; all columns are M '
        'elements/s. Other programs shared the two cores. One thread draws the random bits, 16 for '
        'each element.',
    )


if __name__ == '__main__':
    main()
