"""Speed against stylising every frame at full resolution, with the factors apart.

One core does everything, as a phone would; network, upscaling, flow and propagation are timed in
CPU seconds, one after the other in each repetition. A table row per resolution: what low network
resolution brings, what skipping frames brings on top, and what upscaling, flow and propagation
cost. The whole chains are then run over a clip and timed as a whole: the paper's reading (key
frames through network and MetaSmoothing, FlowBlend between) and AffinePropagation, which needs no
upscaling. Bytes of a key on the link are counted beside it. The quality half of the claim: edges
and steadiness of both chains against the network on every full frame, on the same clip.
"""

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'projects'), str(Path(__file__).resolve().parent)]

import measures  # noqa: E402
from evidence import summary  # noqa: E402
from harness.report import figure  # noqa: E402

from mmext.datasets.known_flow import KnownFlowClip  # noqa: E402
from mmext.datasets.photos import photo  # noqa: E402
from mmext.plugins.mvstylizer.flow import DISFlow, grey, resize, working_size  # noqa: E402
from mmext.plugins.mvstylizer.interfaces import KeyFrame  # noqa: E402
from mmext.plugins.mvstylizer.pipeline import VideoStylizer  # noqa: E402
from mmext.registry import KEYFRAME_POLICIES, PROPAGATIONS, STYLIZERS, UPSCALERS  # noqa: E402

SIZES = {'270p': (270, 480), '360p': (360, 640), '540p': (540, 960), '720p': (720, 1280),
         '1080p': (1080, 1920), '4K': (2160, 3840)}  # fmt: skip
SIDE = 480
GAP = 16
QUALITY = ('edge SSIM', 'warping error, known flow', 'warping error, estimated flow')
EVERY = 'network on every full frame'
CHAINS = {
    'MetaSmoothing, FlowBlend': dict(propagation=dict(type='mmext.FlowBlend')),
    'AffinePropagation': dict(propagation=dict(type='mmext.AffinePropagation')),
}


def clip(size: tuple[int, int], count: int) -> KnownFlowClip:
    """A pan over a large photo with a sprite, at any size."""
    image = photo('china')
    # The camera needs room to move: frames take two thirds of the photo.
    scale = 1.5 * max(size[0] / image.shape[0], size[1] / image.shape[1])
    whole = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    unit = size[0] / 270
    side = round(70 * unit)
    sprite = cv2.resize(photo('flower')[150:250, 250:350], (side, side))
    return KnownFlowClip(
        whole, size, count, pan=(2 * unit, unit), sprite=sprite,
        sprite_start=(round(30 * unit), round(60 * unit)),
        sprite_pan=(round(4 * unit), round(unit)),
    )  # fmt: skip


def timed(action) -> float:
    """CPU seconds of one call, all threads."""
    began = time.process_time()
    action()
    return time.process_time() - began


def parts(frames, stylizer, code) -> dict[str, float]:
    """Seconds of each part, once each."""
    size = frames[0].shape[:2]
    small_size = working_size(size, SIDE)
    small = resize(frames[0], small_size)
    stylised = stylizer.stylize(small, code)
    smoothing = UPSCALERS.build(dict(type='mmext.MetaSmoothing'))
    large = smoothing.upscale(stylised, size, frames[0])
    policy = KEYFRAME_POLICIES.build(dict(type='mmext.FixedInterval', interval=GAP))
    policy.decide(frames[0])
    dis = DISFlow()
    here, there = grey(frames[3], SIDE), grey(frames[0], SIDE)
    told = {
        'network, full size': timed(lambda: stylizer.stylize(frames[0], code)),
        'network, small': timed(lambda: stylizer.stylize(resize(frames[0], small_size), code)),
        'MetaSmoothing': timed(lambda: smoothing.upscale(stylised, size, frames[0])),
        'flow': timed(lambda: dis(here, there)),
        'policy': timed(lambda: policy.decide(frames[1])),
    }
    for name, image in (('FlowBlend', large), ('AffinePropagation', stylised)):
        propagation = PROPAGATIONS.build(dict(type=f'mmext.{name}'))
        keys = [KeyFrame(i, frames[i], image) for i in (0, 6)]
        propagation.propagate(frames[1], 1, *keys)
        told[name] = timed(lambda p=propagation, k=keys: p.propagate(frames[3], 3, *k))
    return told


def chain(method: str, frames, stylizer, style) -> tuple[float, list[np.ndarray]]:
    """Seconds a frame of a whole chain over a clip, and its frames."""
    run = VideoStylizer(
        stylizer, style, dict(type='mmext.FixedInterval', interval=GAP), network_side=SIDE,
        **CHAINS[method],
    )  # fmt: skip
    if run.propagation.full_size:
        run.upscaler  # noqa: B018 (built before the clock starts)
    made: list[np.ndarray] = []
    return timed(lambda: made.extend(run(frames))) / len(frames), made


def main() -> None:
    """Time, compare, judge."""
    args = measures.arguments(__doc__)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sizes = list(SIZES)[: 2 if args.quick else None]
    style = photo('coffee').copy()
    stylizer = STYLIZERS.build(dict(type='mmext.WaveletStylizer'))
    code = stylizer.encode_style(style)
    count = 4 if args.quick else 2 * GAP
    clips = {name: clip(SIZES[name], max(count, 8)).frames for name in sizes}
    settings = {'sizes': sizes, 'frames': count, 'gap': GAP, 'side': SIDE}
    settings |= {'chains': CHAINS, 'flow': DISFlow().preset, 'styles': measures.STYLES}
    done = measures.records(args, 'speed', settings)
    known = {(row['repeat'], row['size']) for row in done.rows}
    stylizer.stylize(clips['270p'][0], code)
    for repeat in range(1 if args.quick else 3):
        for name, frames in clips.items():
            if (repeat, name) in known:
                continue
            told = {'repeat': repeat, 'size': name, 'parts': parts(frames, stylizer, code)}
            told['chains'] = {m: chain(m, frames[:count], stylizer, style)[0] for m in CHAINS}
            done.append([told])
            sys.stdout.write(f'{told}\n')
            sys.stdout.flush()
    if (0, 'quality') not in known:
        quality = compare(args.quick, stylizer)
        done.append([{'repeat': 0, 'size': 'quality', 'rows': quality}])
    rows = []
    for name, frames in clips.items():
        rows += timings(name, [row for row in done.rows if row['size'] == name], frames[0])
    rows += next(row['rows'] for row in done.rows if row['size'] == 'quality')
    out = measures.report(
        args, 'speed', judge(rows, '360p' if args.quick else '1080p'),
        claim='Key frames at low resolution and flow between them speed up stylisation by far',
        paper='75.5x at 1920x1080 (abstract; phone, edge and baseline device unknown)',
        data={'clip': 'pan over china.jpg with a sprite', 'frames': count, 'gap': GAP,
              'side': SIDE},
        rows=rows,
    )  # fmt: skip
    draw(rows, sizes, out / 'speed.png')


def timings(size: str, repeats: list[dict], frame: np.ndarray) -> list[dict]:
    """Rows of a size: parts with their factors, and whole chains."""
    told = []
    for one in (repeat['parts'] for repeat in repeats):
        small = one['network, small'] + one['MetaSmoothing']
        told.append({
            **{f'{part} ms': 1000 * seconds for part, seconds in one.items()},
            'factor of network resolution': one['network, full size'] / small,
        })  # fmt: skip
    row = measures.row_of('parts', size, told)
    row['metrics']['factor of key interval'] = summary([float(GAP)])
    key = resize(frame, working_size(frame.shape, SIDE))[..., ::-1]
    _, data = cv2.imencode('.jpg', key, [cv2.IMWRITE_JPEG_QUALITY, 90])
    row['metrics']['key on the link kB'] = summary([len(data) / 1000])
    rows = [row]
    for method in CHAINS:
        told = []
        for repeat in repeats:
            seconds, full = repeat['chains'][method], repeat['parts']['network, full size']
            told.append({'ms a frame': 1000 * seconds, 'speed-up': full / seconds})
        rows.append(measures.row_of(method, size, told))
    return rows


def compare(quick: bool, stylizer) -> list[dict]:
    """Edges and steadiness of the chains against the network on every full frame, at 540p.

    Steadiness twice: along the exactly known flow, and along an estimated one, as elsewhere.
    """
    known = clip(SIZES['270p' if quick else '540p'], 4 if quick else 2 * GAP + 1)
    frames = known.frames
    exact, estimated = measures.WarpingError(frames, known), measures.WarpingError(frames)
    values: dict[str, list[dict[str, float]]] = {}
    for name in measures.STYLES[: 1 if quick else None]:
        style = photo(name).copy()
        code = stylizer.encode_style(style)
        made = {EVERY: [stylizer.stylize(frame, code) for frame in frames], 'original': frames}
        made |= {method: chain(method, frames, stylizer, style)[1] for method in CHAINS}
        for method, images in made.items():
            edges = measures.mean(measures.edge_ssim, images, frames)
            found = edges, exact(images), estimated(images)
            values.setdefault(method, []).append(dict(zip(QUALITY, found, strict=True)))
    return [measures.row_of(method, 'quality', found) for method, found in values.items()]


def judge(rows: list[dict], size: str) -> tuple[str, str]:
    """Is a chain 75 times as fast at the largest size, and no worse?"""
    told = {(row['method'], row['setting']): row['metrics'] for row in rows}
    good, fast, shown = [], [], []
    for method in CHAINS:
        speed = told[method, size]['speed-up']['mean']
        own, whole = (
            [told[name, 'quality'][key]['mean'] for key in QUALITY] for name in (method, EVERY)
        )
        if own[0] >= whole[0] and own[1] <= whole[1] and own[2] <= whole[2]:
            good.append(method)
        if speed >= 75:
            fast.append(method)
        shown.append(
            f'{method} {own[0]:.3f}, {own[1]:.2f}, {own[2]:.2f} and {speed:.1f} times as fast'
        )
    both = [method for method in fast if method in good]
    verdict = 'met' if both else 'partly' if fast or good else 'not met'
    return verdict, (
        f'{size} on one core, keys every {GAP}th frame at {SIDE} pixels, without sending them; '
        f'edge SSIM, warping error along the known and along an estimated flow: WaveletStylizer on '
        f'every full frame {whole[0]:.3f}, {whole[1]:.2f}, {whole[2]:.2f}; {"; ".join(shown)}.'
    )


def draw(rows: list[dict], sizes: list[str], path: Path) -> None:
    """Milliseconds a frame against resolution."""
    told = {(row['method'], row['setting']): row['metrics'] for row in rows}

    def means(method: str, measure: str) -> np.ndarray:
        return np.array([told[method, size][measure]['mean'] for size in sizes])

    full, small, upscaling = (
        means('parts', f'{part} ms')
        for part in ('network, full size', 'network, small', 'MetaSmoothing')
    )
    lines = {EVERY: full, 'network and MetaSmoothing on every frame': small + upscaling}
    for method in CHAINS:
        lines[f'keys every {GAP}th, {method}'] = means(method, 'ms a frame')
    with figure(path, 1, (6.4, 3.4)) as (axes,):
        for label, values in lines.items():
            axes.plot(sizes, values, 'o-', label=label)
        axes.axhline(40, ls=':', c='0.5', label='25 frames a second')
        axes.set(yscale='log', xlabel='resolution', ylabel='CPU ms a frame')
        axes.legend(fontsize=7, frameon=False)


if __name__ == '__main__':
    main()
