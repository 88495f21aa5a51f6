"""Quality of propagated frames by propagation, key gap and policy.

Reference is the same network on every frame. Measures: PSNR and SSIM to the reference, SSIM of
edges to the original, and what changes from frame to frame beyond motion, by a flow estimator that
made none of the frames; over all pairs and at key frames alone, where propagation meets the
network.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

from evidence import summary, write_result  # noqa: E402
from measures import (  # noqa: E402
    STYLES,
    Recorded,
    WarpingError,
    arguments,
    edge_ssim,
    keep_pictures,
    kept_pictures,
    keys_of,
    material,
    psnr,
    records,
    results,
    sheet,
    ssim,
)

from mmext.datasets.photos import photo  # noqa: E402
from mmext.plugins.mvstylizer.flow import DISFlow  # noqa: E402
from mmext.plugins.mvstylizer.pipeline import VideoStylizer  # noqa: E402
from mmext.registry import KEYFRAME_POLICIES, STYLIZERS  # noqa: E402

PROPAGATIONS = {
    'hold': dict(type='mmext.Hold'),
    'warp': dict(type='mmext.WarpPrevious'),
    'blend': dict(type='mmext.FlowBlend'),
    'affine': dict(type='mmext.AffinePropagation'),
    'affine, global': dict(type='mmext.AffinePropagation', scope='global'),
}
GAPS = (4, 8, 16, 32)
#: Policies that end up with about as many keys as an interval of 16.
POLICIES = {
    'every 16th': dict(type='mmext.FixedInterval', interval=16),
    'residual': dict(type='mmext.ResidualTrigger', threshold=22, min_gap=4, max_gap=32),
    'budget': dict(type='mmext.BudgetAware', budget=1.6, fps=25, burst=1, threshold=24),
}


def methods(quick: bool) -> dict[tuple[str, str], tuple[dict, dict]]:
    """(propagation, setting) -> their configs."""
    gaps = (4,) if quick else GAPS
    made = {}
    for name, propagation in PROPAGATIONS.items():
        for gap in gaps:
            policy = dict(type='mmext.FixedInterval', interval=gap)
            made[name, f'every {gap}th'] = (propagation, policy)
    for name, policy in POLICIES.items():
        for propagation in ('blend', 'affine'):
            made.setdefault((propagation, name), (PROPAGATIONS[propagation], policy))
    return made


def measured(made, reference, originals, error, seams) -> dict[str, float]:
    """All measures of one method on one clip."""
    told = {
        'PSNR': [psnr(a, b) for a, b in zip(made, reference, strict=True)],
        'SSIM': [ssim(a, b) for a, b in zip(made, reference, strict=True)],
        'edge SSIM': [edge_ssim(a, b) for a, b in zip(made, originals, strict=True)],
    }
    return {name: float(np.mean(values)) for name, values in told.items()} | {
        'warping error': error(made),
        'at keys': error(made, seams),
    }


def averaged(told: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each measure over the clips that have it; a clip may have no key but its first."""
    names = dict.fromkeys(key for one in told for key in one)
    return {key: float(np.mean([one[key] for one in told if key in one])) for key in names}


def judge(rows: list[dict]) -> tuple[str, str]:
    """Propagated frames against the reference: structure and steadiness."""
    told = {(row['method'], row['setting']): row['metrics'] for row in rows}
    every = told['network on every frame', '']
    setting = 'every 16th' if ('hold', 'every 16th') in told else 'every 4th'
    names = {name: told[name, setting] for name in ('hold', 'warp', 'blend', 'affine')}
    steady = {
        n: m['warping error']['mean'] <= every['warping error']['mean'] for n, m in names.items()
    }
    sharp = {
        n: m['edge SSIM']['mean'] >= every['edge SSIM']['mean'] - 0.01 for n, m in names.items()
    }
    good = [n for n in ('blend', 'affine') if steady[n] and sharp[n]]
    verdict = 'met' if len(good) == 2 else 'partly' if good else 'not met'
    numbers = '; '.join(
        f'{n}: PSNR {m["PSNR"]["mean"]:.1f} dB, edge SSIM {m["edge SSIM"]["mean"]:.3f}, '
        f'warping error {m["warping error"]["mean"]:.2f}'
        for n, m in names.items()
    )
    return verdict, (
        f'keys {setting}, against the network on every frame (edge SSIM '
        f'{every["edge SSIM"]["mean"]:.3f}, warping error {every["warping error"]["mean"]:.2f}): '
        f'{numbers}. Equal or better in both (edges within 0.01): {", ".join(good) or "none"}.'
    )


def main() -> None:
    """Stylise, propagate, measure, judge."""
    args = arguments(__doc__)
    torch.set_num_threads(1)
    clips = material(args.quick)
    stylizer = STYLIZERS.build(dict(type='mmext.WaveletStylizer'))
    errors = {name: WarpingError(frames) for name, frames in clips.items()}
    styles = STYLES[:1] if args.quick else STYLES
    shown = 'every 4th' if args.quick else 'every 16th'
    settings = {'clips': {k: len(v) for k, v in clips.items()}, 'propagations': PROPAGATIONS}
    settings |= {'flow': DISFlow().preset}
    done = records(args, 'quality', settings)
    known = {(row['style'], row['clip']) for row in done.rows}
    for style in styles:
        for clip, frames in clips.items():
            if (style, clip) in known:
                continue
            found: dict[tuple[str, str], dict] = {}
            shares: dict[tuple[str, str], float] = {}
            recorded = Recorded(stylizer, photo(style).copy())
            reference = [recorded.stylize(frame, recorded.code) for frame in frames]
            seams: dict[str, set[int]] = {}
            row = []
            for (name, setting), (propagation, policy) in methods(args.quick).items():
                keys = set(keys_of(KEYFRAME_POLICIES.build(policy), frames))
                seams[setting] = keys - {0}
                run = VideoStylizer(
                    recorded, photo(style).copy(), policy, propagation, network_side=0,
                    keep_statistics=False,
                )  # fmt: skip
                made = list(run(frames))
                found[name, setting] = measured(
                    made, reference, frames, errors[clip], seams[setting]
                )
                shares[name, setting] = 100 * run.counts.keys / len(frames)
                if setting == shown and name != 'affine, global':
                    row.append((name, made[8 if len(frames) > 16 else 2]))
            at = 8 if len(frames) > 16 else 2
            for name, images in (('network on every frame', reference), ('original', frames)):
                found[name, ''] = measured(
                    images, reference, frames, errors[clip], seams['every 4th']
                )
                shares[name, ''] = 100.0
            if style == STYLES[0]:
                first = [('original', frames[at]), ('every frame', reference[at])]
                keep_pictures(args, clip, first + row)
            done.append([
                {'style': style, 'clip': clip, 'method': name, 'setting': setting,
                 'share': shares[name, setting],
                 'told': {k: v for k, v in told.items() if np.isfinite(v)}}
                for (name, setting), told in found.items()
            ])  # fmt: skip
            sys.stdout.write(f'{style}, {clip}\n')
            sys.stdout.flush()
    values: dict[tuple[str, str], list[dict[str, float]]] = {}
    for name, setting in dict.fromkeys((row['method'], row['setting']) for row in done.rows):
        for style in styles:
            told = [
                row['told'] for row in done.rows
                if (row['method'], row['setting'], row['style']) == (name, setting, style)
            ]  # fmt: skip
            values.setdefault((name, setting), []).append(averaged(told))
    share = {
        method: float(np.mean([
            row['share'] for row in done.rows if (row['method'], row['setting']) == method
        ]))
        for method in values
    }  # fmt: skip
    rows = [
        {
            'method': name,
            'setting': setting,
            'metrics': {key: summary([one[key] for one in told]) for key in told[0]},
            'cost': {'keys %': share[name, setting]},
        }
        for (name, setting), told in sorted(values.items(), key=lambda item: item[0])
    ]
    verdict, why = judge(rows)
    out = results(args)
    write_result(
        out / 'quality.json',
        claim='Frames made from key frames by optical flow look as good as stylising every frame',
        paper='"even better visual quality" than the state of the art (abstract)',
        command='python projects/mvstylizer/quality.py',
        data={'clips': {k: len(v) for k, v in clips.items()}, 'side': 320, 'styles': list(STYLES)},
        seeds=list(range(1 if args.quick else len(STYLES))),
        rows=rows,
        verdict=verdict,
        why=why,
    )
    figure(json.loads((out / 'quality.json').read_text()), out / 'quality.png')
    sheet([(clip, kept_pictures(args, clip)) for clip in clips], out / 'contact_sheet.jpg')
    sys.stdout.write(f'{verdict}: {why}\n')


def figure(result: dict, path: Path) -> None:
    """PSNR to the network on every frame, and warping error, against the key gap."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8.6, 3.2), layout='constrained')
    axes = drawing.subplots(1, 2)
    for place, measure, unit in zip(
        axes, ('PSNR', 'warping error'), ('PSNR to every frame (dB)', 'warping error (levels)'),
        strict=True,
    ):  # fmt: skip
        for index, name in enumerate(PROPAGATIONS):
            points = sorted(
                (int(row['setting'].split()[1][:-2]), row['metrics'][measure]['mean'])
                for row in result['rows']
                if row['method'] == name and row['setting'].startswith('every')
            )
            place.plot(*zip(*points, strict=True), 'o-', c=f'C{index}', label=name)
        if measure == 'warping error':
            for name, style in (('network on every frame', '--'), ('original', ':')):
                (row,) = (r for r in result['rows'] if r['method'] == name)
                place.axhline(row['metrics'][measure]['mean'], ls=style, c='0.4', label=name)
        place.set(xlabel='frames from key to key', ylabel=unit)
        place.legend(fontsize=7, frameon=False)
    drawing.savefig(path, dpi=130)


if __name__ == '__main__':
    main()
