"""Drawing of glyphs (digits, letters) and small grey objects on crops of real photos.

Pure functions of NumPy arrays and a :class:`numpy.random.Generator`; nothing here knows MMEngine.
Images are BGR ``uint8`` of shape ``(H, W, 3)``, boxes are ``(x, y, w, h)`` in whole pixels.

The photos come from :mod:`mmext.datasets.backgrounds`, the fonts are those matplotlib ships.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SPLITS = ('train', 'val', 'test')

#: Files under ``matplotlib/mpl-data/fonts/ttf`` each split renders from. An explicit list, because
#: the symbol fonts (STIXSiz, cmex10, cmsy10, Display) have other signs at the codes of digits.
FONTS: dict[str, tuple[str, ...]] = {
    'train': (
        'DejaVuSans.ttf',
        'DejaVuSans-Bold.ttf',
        'DejaVuSans-Oblique.ttf',
        'DejaVuSansMono.ttf',
        'DejaVuSansMono-BoldOblique.ttf',
        'DejaVuSerif.ttf',
        'DejaVuSerif-Bold.ttf',
        'DejaVuSerif-Italic.ttf',
        'STIXGeneral.ttf',
        'STIXGeneralBolIta.ttf',
        'cmb10.ttf',
        'cmr10.ttf',
    ),
    'val': ('DejaVuSans-BoldOblique.ttf', 'STIXGeneralItalic.ttf', 'cmss10.ttf'),
    'test': (
        'DejaVuSansMono-Bold.ttf',
        'DejaVuSerif-BoldItalic.ttf',
        'STIXGeneralBol.ttf',
        'cmtt10.ttf',
    ),
}

#: Opacity from which a pixel counts as ink; boxes are tight around such pixels.
INK = 0.35
#: Luminance of ink minus mean luminance of its local background, in grey levels.
CONTRAST = (25.0, 120.0)
#: Largest rotation of a glyph, in degrees.
MAX_ANGLE = 12.0
#: Largest share of the smaller of two boxes that may be covered; it bounds the IoU by 0.177.
MAX_COVER = 0.3

_LUMINANCE = (0.114, 0.587, 0.299)

# Bernstein weights of the 12 points of a quadratic curve.
_T = np.linspace(0, 1, 12)
_CURVE = np.stack([(1 - _T) ** 2, 2 * _T * (1 - _T), _T**2], 1)


class Glyph(NamedTuple):
    """One character or object ready for drawing.

    Attributes:
        alpha: Opacity, float32 of shape ``(h, w)`` in [0, 1], with an empty margin.
        hull: Convex hull of the ink, float32 ``(n, 2)`` as x, y.
        texture: Factor of the colour at each pixel, float32 ``(h, w)``, on average 1; None for
            ink of one colour.
    """

    alpha: np.ndarray
    hull: np.ndarray
    texture: np.ndarray | None = None


class Scene(NamedTuple):
    """A composed image.

    Attributes:
        image: BGR uint8 ``(size, size, 3)``.
        boxes: int64 ``(n, 4)`` as x, y, w, h.
        kept: Positions of the drawn glyphs in the sequence given, int64 ``(n,)``.
        masks: Opacity of each drawn glyph, float32 ``(n, size, size)``, not cut by later glyphs.
    """

    image: np.ndarray
    boxes: np.ndarray
    kept: np.ndarray
    masks: np.ndarray


def package_dir(package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises:
        ImportError: The package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"{package} is not installed: pip install 'mmext[data]'",
            name=package,
        )
    return Path(next(iter(spec.submodule_search_locations)))


def check_split(split: str, allowed: Sequence[str] = SPLITS) -> None:
    """Raise ValueError unless ``split`` is one of ``allowed``."""
    if split not in allowed:
        raise ValueError(f'split must be one of {", ".join(allowed)}, got {split!r}')


def make_glyph(alpha: np.ndarray, texture: np.ndarray | None = None) -> Glyph:
    """Build a :class:`Glyph` from an opacity map ``(h, w)`` in [0, 1].

    Args:
        alpha: Opacity.
        texture: Brightness ``(h, w)`` in any unit, brought to the mean 1 over the opaque part.

    Raises:
        ValueError: No pixel reaches the opacity :data:`INK`.
    """
    alpha = np.pad(np.asarray(alpha, np.float32), 2)
    rows, columns = np.nonzero(alpha >= INK)
    if not rows.size:
        raise ValueError(f'alpha has no pixel of opacity >= {INK}: nothing to draw')
    hull = cv2.convexHull(np.stack([columns, rows], 1).astype(np.float32)).reshape(-1, 2)
    if texture is None:
        return Glyph(alpha, hull)
    padded = np.pad(np.asarray(texture, np.float32), 2, mode='edge')
    return Glyph(alpha, hull, padded / np.average(padded, weights=alpha).astype(np.float32))


def glyph_from_digit(image: np.ndarray) -> Glyph:
    """Turn one of scikit-learn's digits, ``(8, 8)`` with values 0..16, into a smooth glyph."""
    padded = np.pad(np.asarray(image, np.float32) / 16, 1)
    smooth = cv2.resize(padded, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    # A smoothstep between these levels gives strokes of one colour with soft edges; the blur of
    # an 8-pixel original would otherwise halve the contrast of thin strokes.
    return make_glyph(_smoothstep(smooth, 0.2, 0.6))


def glyph_from_grey(image: np.ndarray) -> Glyph:
    """Turn a light digit on black, uint8 ``(h, w)`` such as MNIST's, into a smooth glyph."""
    # 20 pixels of ink: its strokes are wide enough for a narrower ramp than above.
    return make_glyph(_smoothstep(_enlarge(image), 0.25, 0.65))


def garment_from_grey(image: np.ndarray) -> Glyph:
    """Turn a grey object on black, uint8 ``(h, w)`` such as Fashion-MNIST's, into a glyph.

    All that is not black is opaque, and its grey levels are the texture.
    """
    grey = _enlarge(image)
    # A floor of a fifth of the brightest level: the rim would else be black on every background.
    return make_glyph(_smoothstep(grey, 0.02, 0.1), np.maximum(grey, 0.2 * float(grey.max())))


def _enlarge(image: np.ndarray) -> np.ndarray:
    """Enlarge a grey image four times; float32 in about [0, 1]."""
    padded = np.pad(np.asarray(image, np.float32) / 255, 1)
    return cv2.resize(padded, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)


def _smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    ramp = np.clip((values - low) / (high - low), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


@lru_cache(maxsize=2048)
def glyph_from_font(character: str, font: str, height: int = 56) -> Glyph:
    """Render one character with one of matplotlib's fonts.

    Args:
        character: A single character.
        font: File name under ``matplotlib/mpl-data/fonts/ttf``.
        height: Nominal size of the font in pixels.

    Raises:
        FileNotFoundError: The installed matplotlib does not ship the font.
    """
    path = package_dir('matplotlib') / 'mpl-data' / 'fonts' / 'ttf' / font
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; install a complete matplotlib wheel')
    face = ImageFont.truetype(str(path), height)
    canvas = Image.new('L', (2 * height, 2 * height))
    ImageDraw.Draw(canvas).text((height // 2, height // 4), character, fill=255, font=face)
    bounds = canvas.getbbox()
    if bounds is None:
        raise ValueError(f'{font} draws nothing for {character!r}')
    return make_glyph(np.asarray(canvas.crop(bounds), np.float32) / 255)


def warp_glyph(glyph: Glyph, side: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotate a glyph and scale the longer side of its ink to ``side`` pixels.

    Args:
        glyph: The glyph.
        side: Longer side of the result's box in pixels; met to within one pixel.
        angle: Counter-clockwise rotation in degrees.

    Returns:
        Opacity patch float32 ``(h, w)`` and the tight box of its ink, int64 ``(4,)``.
    """
    patch = _warp(glyph.alpha, glyph, side, angle)
    return patch, tight_box(patch)


def _warp(values: np.ndarray, glyph: Glyph, side: float, angle: float) -> np.ndarray:
    """Move a map ``(h, w)`` of a glyph as :func:`warp_glyph` moves its opacity."""
    turn = np.deg2rad(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, sin], [-sin, cos]], np.float32)
    points = glyph.hull @ rotation.T
    low, high = points.min(0), points.max(0)
    scale = side / float((high - low + 1).max())
    margin = 3
    offset = margin - scale * low
    width, height = (np.ceil(scale * (high - low)) + 2 * margin + 1).astype(int)
    matrix = np.concatenate([scale * rotation, offset[:, None]], 1)
    return cv2.warpAffine(values, matrix, (int(width), int(height)), flags=cv2.INTER_LINEAR)


def tight_box(alpha: np.ndarray) -> np.ndarray:
    """Return the smallest box, int64 ``(4,)`` as x, y, w, h, around all pixels >= :data:`INK`."""
    ink = alpha >= INK
    columns, rows = np.flatnonzero(ink.any(0)), np.flatnonzero(ink.any(1))
    if not columns.size:
        raise ValueError(f'alpha has no pixel of opacity >= {INK}')
    x, y = columns[0], rows[0]
    return np.array([x, y, columns[-1] - x + 1, rows[-1] - y + 1], np.int64)


def cut_background(rng: np.random.Generator, images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Cut a random square of 0.8 to 3 times ``size`` out of a random image and darken it.

    Brightness falls to at most 217 and its mean to at most 130, so that ink can always be
    brighter by :data:`CONTRAST`'s lower end.

    Returns:
        Float32 BGR ``(size, size, 3)``.
    """
    image = images[int(rng.integers(len(images)))]
    height, width = image.shape[:2]
    side = min(int(round(size * rng.uniform(0.8, 3.0))), height, width)
    y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = image[y : y + side, x : x + side]
    if rng.random() < 0.5:
        crop = cv2.flip(crop, 1)
    quarter = int(rng.integers(4))
    if quarter:
        crop = cv2.rotate(crop, quarter - 1)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    canvas = cv2.resize(crop, (size, size), interpolation=how).astype(np.float32)
    mean = sum(cv2.mean(canvas)) / 3
    return canvas * np.float32(min(rng.uniform(0.4, 0.85), 130 / max(mean, 1.0)))


def sample_colour(rng: np.random.Generator, luminance: float) -> np.ndarray:
    """Draw a random BGR colour, float32 ``(3,)`` in [0, 255], of exactly this luminance."""
    shares = rng.uniform(0.3, 1.0, 3).tolist()
    factor = luminance / luminance_of(shares)
    colour = [min(share * factor, 255.0) for share in shares]
    reached = luminance_of(colour)
    # Clipping loses luminance; mixing in white restores it exactly.
    white = max(luminance - reached, 0.0) / max(255 - reached, 1e-6)
    return np.array([channel + (255 - channel) * white for channel in colour], np.float32)


def luminance_of(colour: Sequence[float]) -> float:
    """Return the luminance (Rec. 601) of a BGR colour, in the unit of its channels."""
    return sum(weight * channel for weight, channel in zip(_LUMINANCE, colour, strict=True))


def mean_luminance(image: np.ndarray) -> float:
    """Return the mean luminance of a BGR image ``(H, W, 3)``, in grey levels."""
    return luminance_of(cv2.mean(image)[:3])


def draw_strokes(rng: np.random.Generator, canvas: np.ndarray, count: int) -> np.ndarray:
    """Draw ``count`` curved distractor strokes, brighter or darker than what is below them.

    They are 1 to 3 pixels wide in a canvas of 80 pixels and grow with it.
    """
    size = canvas.shape[0]
    width = max(1, round(size / 80))
    for _ in range(count):
        ends = rng.uniform(0, size, 2) + rng.uniform(-0.4, 0.4, (3, 2)) * size
        curve = _CURVE @ ends
        x, y = (min(max(int(value), 0), size - 1) for value in curve[6])
        below = mean_luminance(canvas[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5])
        shift = rng.uniform(CONTRAST[0], 100) * (1 if rng.random() < 0.7 else -1)
        colour = sample_colour(rng, min(max(below + shift, 5.0), 245.0))
        points = np.round(curve * 16).astype(np.int32)[:, None]
        mask = np.zeros(canvas.shape[:2], np.uint8)
        thickness = width * int(rng.integers(1, 4))
        cv2.polylines(mask, [points], False, 255, thickness, cv2.LINE_AA, shift=4)
        canvas = blend(canvas, mask * np.float32(1 / 255), colour)
    return canvas


def blend(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Lay ``colour``, (3,) or (H, W, 3), with opacity ``alpha (H, W)`` over a canvas (H, W, 3)."""
    return canvas + alpha[..., None] * (colour - canvas)


def _covers(box: np.ndarray, others: Sequence[np.ndarray], max_cover: float) -> bool:
    for other in others:
        low = np.maximum(box[:2], other[:2])
        high = np.minimum(box[:2] + box[2:], other[:2] + other[2:])
        shared = np.clip(high - low, 0, None).prod()
        if shared > max_cover * min(box[2] * box[3], other[2] * other[3]):
            return True
    return False


def compose_scene(
    rng: np.random.Generator,
    backgrounds: Sequence[np.ndarray],
    glyphs: Sequence[Glyph],
    size: int,
    sides: tuple[int, int],
    max_strokes: int = 3,
    max_noise: float = 5.0,
    max_cover: float = MAX_COVER,
) -> Scene:
    """Draw glyphs on a random piece of background.

    Every glyph is rotated by up to :data:`MAX_ANGLE` degrees, has a random colour brighter than
    the mean of what lies under its box by :data:`CONTRAST`, lies wholly inside the image, and
    covers no other one by more than ``max_cover`` of the smaller box. A texture varies the colour
    around that mean. A glyph that finds no
    place in 40 trials is left out; the first one always fits.

    Args:
        rng: Source of all randomness.
        backgrounds: BGR uint8 images, any sizes.
        glyphs: What to draw, in this order.
        size: Height and width of the scene in pixels, more than ``sides[1]``.
        sides: Range of the longer side of a glyph's box in pixels, ends included.
        max_strokes: Most distractor strokes, drawn before the glyphs.
        max_noise: Largest standard deviation of the Gaussian pixel noise, in grey levels.
        max_cover: Largest share of the smaller of two boxes that may be covered, in [0, 1].
    """
    canvas = cut_background(rng, backgrounds, size)
    canvas = draw_strokes(rng, canvas, int(rng.integers(max_strokes + 1)))
    boxes: list[np.ndarray] = []
    kept: list[int] = []
    masks: list[np.ndarray] = []
    for index, glyph in enumerate(glyphs):
        # warp_glyph meets a side to within a pixel, so both ends keep one pixel of room.
        side = rng.uniform(sides[0] + 1, sides[1] - 1)
        angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE)
        patch, local = warp_glyph(glyph, side, angle)
        for _ in range(40):
            x = int(rng.integers(size - local[2] + 1))
            y = int(rng.integers(size - local[3] + 1))
            box = np.array([x, y, local[2], local[3]], np.int64)
            if not _covers(box, boxes, max_cover):
                break
        else:
            continue
        corner = x - int(local[0]), y - int(local[1])
        mask = place(patch, *corner, size)
        below = mean_luminance(canvas[y : y + box[3], x : x + box[2]])
        most = max(min(CONTRAST[1], 245 - below), CONTRAST[0])
        luminance = below + rng.uniform(CONTRAST[0], most)
        colour = sample_colour(rng, min(luminance, 255.0))
        if glyph.texture is not None:
            texture = place(_warp(glyph.texture, glyph, side, angle), *corner, size)
            colour = np.minimum(texture[..., None] * colour, 255)
        canvas = blend(canvas, mask, colour)
        boxes.append(box)
        kept.append(index)
        masks.append(mask)
    noise = rng.uniform(0, max_noise) if max_noise else 0.0
    canvas = canvas + noise * rng.standard_normal(canvas.shape, np.float32)
    return Scene(
        np.clip(np.round(canvas), 0, 255).astype(np.uint8),
        np.stack(boxes) if boxes else np.zeros((0, 4), np.int64),
        np.array(kept, np.int64),
        np.stack(masks) if masks else np.zeros((0, size, size), np.float32),
    )


def place(patch: np.ndarray, x: int, y: int, size: int) -> np.ndarray:
    """Put ``patch`` at column x, row y (may be negative) of an empty ``(size, size)`` map."""
    height, width = patch.shape
    mask = np.zeros((size, size), np.float32)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, size), min(y + height, size)
    mask[top:bottom, left:right] = patch[top - y : bottom - y, left - x : right - x]
    return mask
