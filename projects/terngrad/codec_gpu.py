"""Throughput of the codec on a GPU: the Triton kernels against the same arithmetic in torch.

Both take the same random bits and must give the same bytes. Without a GPU, --quick runs the kernels
in Triton's interpreter on few elements: it checks this script, its numbers mean nothing.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'projects')]

import torch  # noqa: E402
from benchmark import clocked, in_turns, options  # noqa: E402
from evidence import row, write_result  # noqa: E402

RANKS = 4
RESULTS = Path(__file__).resolve().parent / 'results/gpu'


def pieces(numel: int, device: torch.device) -> dict[str, tuple]:
    """Part of the codec -> (Triton, torch), each a function that returns its result."""
    from mmext.plugins.terngrad import functional, kernels

    generator = torch.Generator(device).manual_seed(0)
    grad = torch.randn(numel, generator=generator, device=device) * 1e-3
    limits = functional.clip_limits([grad], 2.5)
    scale = functional.scalers([grad], limits)[0]
    inverse, bound = kernels.reciprocal(scale, limits[0], device)
    bits = kernels.draw_bits(numel, generator)
    codes = torch.empty(numel, dtype=torch.int8, device=device)

    def encode(call):
        call(grad, bits, inverse, bound, codes)
        return codes

    kernels.quantize_reference(grad, bits, inverse, bound, codes)
    packed = functional.pack_ternary(codes).expand(RANKS, -1).contiguous()

    def decode_torch():
        total = functional.unpack_ternary(packed[0], numel).to(torch.int8)
        for rank in packed[1:]:
            total.add_(functional.unpack_ternary(rank, numel))
        return total

    return {
        'encode': (
            lambda: encode(kernels.launch_quantize),
            lambda: encode(kernels.quantize_reference),
        ),
        f'decode and sum {RANKS} ranks': (
            lambda: kernels.launch_sum(packed, numel),
            decode_torch,
        ),
        'draw the random bits': (lambda: kernels.draw_bits(numel, generator),) * 2,
        'pack': (lambda: functional.pack_ternary(codes),) * 2,
    }


def measure(numel: int, rounds: int, device: torch.device) -> tuple[dict, list[str]]:
    """(part, way) -> G elements/s of each round, and the parts whose results differ."""
    parts = pieces(numel, device)
    differ = []
    for name, ways in list(parts.items())[:2]:
        ours, reference = (way().clone() for way in ways)
        if not torch.equal(ours.to(torch.int32), reference.to(torch.int32)):
            differ.append(name)
    calls = {
        (name, way): clocked(call)
        for name, ways in parts.items()
        for way, call in zip(('Triton', 'torch'), ways, strict=True)
    }
    taken = in_turns(calls, rounds, warm_up=2)
    return {key: [numel / seconds / 1e9 for seconds in v] for key, v in taken.items()}, differ


def main() -> None:
    """Measure and write results/gpu/codec.json."""
    args = options(__doc__, out=RESULTS)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if device.type == 'cpu' and not args.quick:
        sys.exit('codec_gpu: no GPU is visible; --quick checks the script on a CPU')
    if args.quick and args.out == RESULTS:
        sys.exit('codec_gpu: --quick needs --out: its numbers are no evidence')
    numel, rounds = (4000, 1) if args.quick else (100_000_000, 30)
    if device.type == 'cpu':
        # Before Triton is imported.
        os.environ['TRITON_INTERPRET'] = '1'
    found, differ = measure(numel, rounds, device)
    rows = [
        row(way, f'{numel} elements, G elements/s',
            {part: values for (part, by), values in found.items() if by == way}, cost={})
        for way in ('Triton', 'torch')
    ]  # fmt: skip
    triton, plain = (row['metrics'] for row in rows)
    ratios = {part: triton[part]['mean'] / plain[part]['mean'] for part in list(triton)[:2]}
    faster = all(ratio > 1 for ratio in ratios.values())
    told = ', '.join(f'{part} {ratio:.2g} times' for part, ratio in ratios.items())
    write_result(
        args.out / 'codec.json',
        claim='the Triton kernels give the bytes of the torch codec and are faster on a GPU',
        command='python projects/terngrad/codec_gpu.py',
        data={'set': 'Gaussian gradient'},
        rows=rows,
        verdict='not met' if differ or not faster else 'met',
        why=f'Triton against torch: {told}; results differ in: {", ".join(differ) or "nothing"}. '
        'Both ways take turns; drawing and packing are torch in both.',
    )
    print(told, '; differ:', differ)


if __name__ == '__main__':
    main()
