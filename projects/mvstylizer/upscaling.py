"""Upscaling a stylised frame: MetaSmoothing against bicubic, guided filter and guided affine.

Two questions on photos that no training has seen. Mending: photos under a random colour mapping,
shrunk and spoiled, against the clean large ones. Stylised: what the wavelet network makes of the
small frame, against what it makes of the large one, and its edges against the original's.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

import measures  # noqa: E402

from mmext.datasets.photos import photo  # noqa: E402
from mmext.engine.rng import generator  # noqa: E402
from mmext.plugins.mvstylizer.flow import resize  # noqa: E402
from mmext.plugins.mvstylizer.perturbations import perturb_colors, spoil  # noqa: E402
from mmext.registry import STYLIZERS, UPSCALERS  # noqa: E402

METHODS = {
    'bicubic': (dict(type='mmext.Bicubic'), True),
    'bicubic, guided filter': (dict(type='mmext.GuidedFilter'), True),
    'guided affine': (dict(type='mmext.GuidedAffine'), True),
    'MetaSmoothing': (dict(type='mmext.MetaSmoothing'), True),
    'MetaSmoothing, no original': (dict(type='mmext.MetaSmoothing'), False),
}
#: Setting -> vertical and horizontal scale; 8/3 is 405 to 1080 lines.
SCALES = {'x1.5': (1.5, 1.5), 'x8/3': (8 / 3, 8 / 3), 'x4': (4, 4), 'x2 by x3': (2, 3)}
#: Settings with pictures.
SHOWN = ('x8/3', 'x4')
HELD_OUT = ('rocket', 'flower')


def large(name: str, quick: bool) -> np.ndarray:
    """Held-out photo at 432 lines, its width a multiple of 24."""
    image = photo(name)
    height = 144 if quick else 432
    width = round(height * image.shape[1] / image.shape[0]) // 24 * 24
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def mending(image: np.ndarray, small: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Spoiled small image and clean large one, of one random mapping."""
    draws = generator(seed, 'upscaling', 0, 0)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None] / 255
    wanted = perturb_colors(pixels, draws)
    shrunk = torch.nn.functional.interpolate(wanted, small, mode='area')
    images = (spoil(shrunk, draws), wanted)
    low, high = ((255 * i[0]).round().byte().permute(1, 2, 0).numpy().copy() for i in images)
    return low, high


def upscaled(args, seed: int, scales: dict, upscalers: dict, stylizer) -> list[dict]:
    """Records of all methods with one style; pictures of the first are kept."""
    code = stylizer.encode_style(photo(measures.STYLES[seed]).copy())
    found: dict[tuple[str, str], list[dict]] = {}
    for name in HELD_OUT:
        original = large(name, args.quick)
        size = original.shape[:2]
        full = stylizer.stylize(original, code)
        for setting, (tall, wide) in scales.items():
            small = round(size[0] / tall), round(size[1] / wide)
            spoiled, clean = mending(original, small, seed)
            stylised = stylizer.stylize(resize(original, small), code)
            row = [('original', original), ('large, stylised', full)]
            for method, (upscaler, guided) in upscalers.items():
                guide = original if guided else None
                mended = upscaler.upscale(spoiled, size, guide)
                made = upscaler.upscale(stylised, size, guide)
                found.setdefault((method, setting), []).append({
                    'mending PSNR': measures.psnr(mended, clean),
                    'mending SSIM': measures.ssim(mended, clean),
                    'stylised PSNR': measures.psnr(made, full),
                    'edge SSIM': measures.edge_ssim(made, original),
                })  # fmt: skip
                row.append((method, made))
            found.setdefault(('none: stylised large', setting), []).append({
                'mending PSNR': 60.0, 'mending SSIM': 1.0, 'stylised PSNR': 60.0,
                'edge SSIM': measures.edge_ssim(full, original),
            })  # fmt: skip
            if seed == 0 and setting in SHOWN:
                crop = tuple(slice(side // 4, 3 * side // 4) for side in size)
                measures.keep_pictures(args, f'{name} {setting}', [(t, i[crop]) for t, i in row])
    return [
        {'seed': seed, 'method': method, 'setting': setting,
         'told': {m: float(np.mean([one[m] for one in told])) for m in told[0]}}
        for (method, setting), told in found.items()
    ]  # fmt: skip


def main() -> None:
    """Upscale, measure, judge."""
    args = measures.arguments(__doc__)
    torch.set_num_threads(1)
    scales = {k: SCALES[k] for k in (('x8/3',) if args.quick else SCALES)}
    upscalers = {name: (UPSCALERS.build(cfg), guided) for name, (cfg, guided) in METHODS.items()}
    stylizer = STYLIZERS.build(dict(type='mmext.WaveletStylizer'))
    done = measures.records(args, 'upscaling', {'scales': list(scales)})
    known = {row['seed'] for row in done.rows}
    for seed in range(1 if args.quick else len(measures.STYLES)):
        if seed not in known:
            done.append(upscaled(args, seed, scales, upscalers, stylizer))
    told: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in done.rows:
        told.setdefault((row['method'], row['setting']), []).append(row['told'])
    rows = [measures.row_of(*key, values) for key, values in told.items()]
    out = measures.report(
        args, 'upscaling', judge(rows),
        claim='Meta-smoothing upscales a stylised frame and removes distortions in one go',
        paper=None,
        data={'photos': HELD_OUT, 'lines': 144 if args.quick else 432, 'styles': measures.STYLES},
        rows=rows,
    )  # fmt: skip
    shown = [f'{name} {setting}' for name in HELD_OUT for setting in scales if setting in SHOWN]
    measures.sheet(args, shown, out / 'upscaling.jpg')


def judge(rows: list[dict]) -> tuple[str, str]:
    """Does MetaSmoothing beat each of the others at every scale, on both questions?"""
    told = {(row['method'], row['setting']): row['metrics'] for row in rows}
    settings = sorted({setting for _, setting in told})
    lost: dict[str, list[str]] = {}
    parts = []
    for measure, words in (('mending PSNR', 'spoiled frames'),
                           ('stylised PSNR', 'stylised frames')):  # fmt: skip
        gains = []
        for other in ('bicubic', 'bicubic, guided filter', 'guided affine'):
            found = [
                told['MetaSmoothing', s][measure]['mean'] - told[other, s][measure]['mean']
                for s in settings
            ]
            gains.append(f'{other} {min(found):+.1f} to {max(found):+.1f}')
            if min(found) <= 0:
                lost.setdefault(measure, []).append(other)
        parts.append(f'{words}: {"; ".join(gains)}')
    verdict = 'met' if not lost else 'partly' if 'mending PSNR' not in lost else 'not met'
    beaten_by = '; '.join(f'{", ".join(others)} ({name})' for name, others in lost.items())
    return verdict, (
        f'PSNR of MetaSmoothing minus that of the others in dB, least to most of the scales '
        f'{", ".join(settings)}. On {". On ".join(parts)}. Not ahead at some scale: '
        f'{beaten_by or "of none"}.'
    )


if __name__ == '__main__':
    main()
