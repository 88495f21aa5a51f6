"""Quality of propagated frames by propagation, key gap and policy.

Reference is the same network on every frame. Measures: PSNR and SSIM to the reference, SSIM of
edges to the original, and what changes from frame to frame beyond motion, by a flow estimator that
made none of the frames; over all pairs and at key frames alone, where propagation meets the
network.
"""

import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

import measures  # noqa: E402
from harness.report import figure  # noqa: E402

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
    made = {}
    for name, propagation in PROPAGATIONS.items():
        for gap in (4,) if quick else GAPS:
            policy = dict(type='mmext.FixedInterval', interval=gap)
            made[name, f'every {gap}th'] = (propagation, policy)
    for name, policy in POLICIES.items():
        for propagation in ('blend', 'affine'):
            made.setdefault((propagation, name), (PROPAGATIONS[propagation], policy))
    return made


def measured(made, reference, originals, error, seams) -> dict[str, float]:
    """All measures of one method on one clip; without a seam there is none at keys."""
    told = {
        'PSNR': measures.mean(measures.psnr, made, reference),
        'SSIM': measures.mean(measures.ssim, made, reference),
        'edge SSIM': measures.mean(measures.edge_ssim, made, originals),
        'warping error': error(made),
        'at keys': error(made, seams),
    }
    return {name: value for name, value in told.items() if np.isfinite(value)}


def averaged(told: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each measure over the clips that have it; a clip may have no key but its first."""
    names = dict.fromkeys(key for one in told for key in one)
    return {key: float(np.mean([one[key] for one in told if key in one])) for key in names}


def stylised(args, stylizer, style: str, clip: str, frames: list, error) -> list[dict]:
    """Records of all methods on one clip with one style; pictures of the first style are kept."""
    recorded = measures.Recorded(stylizer, photo(style).copy())
    reference = [recorded.stylize(frame, recorded.code) for frame in frames]
    at, shown = (2, 'every 4th') if args.quick else (8, 'every 16th')
    pictures = [('original', frames[at]), ('every frame', reference[at])]
    seams: dict[str, set[int]] = {}
    found = []

    def note(method: str, setting: str, made: list, share: float) -> None:
        told = measured(made, reference, frames, error, seams[setting or 'every 4th'])
        found.append({'style': style, 'clip': clip, 'method': method, 'setting': setting,
                      'share': share, 'told': told})  # fmt: skip

    for (name, setting), (propagation, policy) in methods(args.quick).items():
        seams[setting] = set(measures.keys_of(KEYFRAME_POLICIES.build(policy), frames)) - {0}
        run = VideoStylizer(
            recorded, photo(style).copy(), policy, propagation, network_side=0,
            keep_statistics=False,
        )  # fmt: skip
        made = list(run(frames))
        note(name, setting, made, 100 * run.counts.keys / len(frames))
        if setting == shown and name != 'affine, global':
            pictures.append((name, made[at]))
    note('network on every frame', '', reference, 100.0)
    note('original', '', frames, 100.0)
    if style == measures.STYLES[0]:
        measures.keep_pictures(args, clip, pictures)
    return found


def judge(rows: list[dict]) -> tuple[str, str]:
    """Propagated frames against the reference: structure and steadiness."""
    told = {(row['method'], row['setting']): row['metrics'] for row in rows}
    every = told['network on every frame', '']
    setting = 'every 16th' if ('hold', 'every 16th') in told else 'every 4th'
    names = {name: told[name, setting] for name in ('hold', 'warp', 'blend', 'affine')}
    good = [
        name
        for name in ('blend', 'affine')
        if names[name]['warping error']['mean'] <= every['warping error']['mean']
        and names[name]['edge SSIM']['mean'] >= every['edge SSIM']['mean'] - 0.01
    ]
    verdict = 'met' if len(good) == 2 else 'partly' if good else 'not met'
    numbers = '; '.join(
        f'{n} {m["PSNR"]["mean"]:.1f} dB, {m["edge SSIM"]["mean"]:.3f}, '
        f'{m["warping error"]["mean"]:.2f}'
        for n, m in names.items()
    )
    return verdict, (
        f'keys {setting}; PSNR to the network on every frame, edge SSIM, warping error: every '
        f'frame {every["edge SSIM"]["mean"]:.3f}, {every["warping error"]["mean"]:.2f}; {numbers}. '
        f'As good in the last two (edges within 0.01): {", ".join(good) or "none"}.'
    )


def table(found: list[dict]) -> list[dict]:
    """Rows of the result: means over the clips for each style."""
    rows = []
    for name, setting in sorted({(one['method'], one['setting']) for one in found}):
        own = [one for one in found if (one['method'], one['setting']) == (name, setting)]
        styles = dict.fromkeys(one['style'] for one in own)
        told = [averaged([one['told'] for one in own if one['style'] == s]) for s in styles]
        cost = {'keys %': float(np.mean([one['share'] for one in own]))}
        rows.append(measures.row_of(name, setting, told, cost))
    return rows


def main() -> None:
    """Stylise, propagate, measure, judge."""
    args = measures.arguments(__doc__)
    torch.set_num_threads(1)
    clips = measures.material(args.quick)
    stylizer = STYLIZERS.build(dict(type='mmext.WaveletStylizer'))
    lengths = {name: len(frames) for name, frames in clips.items()}
    settings = {'clips': lengths, 'propagations': PROPAGATIONS, 'flow': DISFlow().preset}
    done = measures.records(args, 'quality', settings)
    known = {(row['style'], row['clip']) for row in done.rows}
    for clip, frames in clips.items():
        error = measures.WarpingError(frames)
        for style in measures.STYLES[:1] if args.quick else measures.STYLES:
            if (style, clip) not in known:
                done.append(stylised(args, stylizer, style, clip, frames, error))
                sys.stdout.write(f'{style}, {clip}\n')
                sys.stdout.flush()
    rows = table(done.rows)
    out = measures.report(
        args, 'quality', judge(rows),
        claim='Frames made from key frames by optical flow look as good as stylising every frame',
        paper='"even better visual quality" than the state of the art (abstract)',
        data={'clips': lengths, 'side': measures.SIDE, 'styles': list(measures.STYLES)},
        rows=rows,
    )  # fmt: skip
    draw(rows, out / 'quality.png')
    measures.sheet(args, list(clips), out / 'contact_sheet.jpg')


def draw(rows: list[dict], path: Path) -> None:
    """PSNR to the network on every frame, and warping error, against the key gap."""
    units = {'PSNR': 'PSNR to every frame (dB)', 'warping error': 'warping error (levels)'}
    with figure(path, 2, (4.3, 3.2)) as axes:
        for place, (measure, unit) in zip(axes, units.items(), strict=True):
            for index, name in enumerate(PROPAGATIONS):
                points = sorted(
                    (int(row['setting'].split()[1][:-2]), row['metrics'][measure]['mean'])
                    for row in rows
                    if row['method'] == name and row['setting'].startswith('every')
                )
                place.plot(*zip(*points, strict=True), 'o-', c=f'C{index}', label=name)
            place.set(xlabel='frames from key to key', ylabel=unit)
        for name, style in (('network on every frame', '--'), ('original', ':')):
            (row,) = (r for r in rows if r['method'] == name)
            axes[1].axhline(row['metrics']['warping error']['mean'], ls=style, c='0.4', label=name)
        for place in axes:
            place.legend(fontsize=7, frameon=False)


if __name__ == '__main__':
    main()
