"""Characters rendered from fonts: letters and symbols, or Chinese characters of GB2312."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmext.datasets import rendering
from mmext.datasets.digits import LabelledImages
from mmext.engine.rng import derive_seed
from mmext.registry import DATASETS

#: Latin, digits, Greek, Cyrillic, signs, arrows, mathematics, shapes; all in fonts of matplotlib
#: for each split. Left out is what looks like an earlier character once size and place are lost
#: (correlation of the blurred images above 0.93 in some font): o after O, Greek A after Latin A.
SYMBOLS = (
    'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    '23456789'
    'abdefkmqr'
    'ΞΣΦΨαβζλμνςωϞϠ'
    'ДЖЙЛЦЧЩЪЫЮьэяЂЉЊЋ'
    '"#$%&(*+/<=>?@§©«±¶¿×‡€£‰'
    '←↑→↓↖↗↘↙↥↦↧↪↫↬↭↯↰↱↲↳↴↵↶↷↸↹↺↼↽↾↿⇄⇅⇆⇍⇏⇑⇖⇗⇘⇙⇚⇞⇦⇨⇩⇫⇰⇱⇲⇵⇶'
    '∂∄∅∉∊∍∓∔√∝∞∟∠∤∦∩∬∭∴∵∶∷∸∹∺∻∼∽≁≄≅≆≇≎≏≐≑≒≓≗≜≞≟≣≤≥≦≧≭≮≰≱≶≷'
    '≸≹≺≻≼≽≾≿⊁⊂⊃⊄⊅⊆⊇⊈⊉⊊⊋⊍⊓⊔⊕⊞⊠⊢⊣⊥⊦⊧⊨⊩⊪⊫⊬⊯⊲⊳⊸⋄⋏⋐⋑⋚⋛⋜⋝⋞⋟⋠⋡⋦⋧⋯'
    '□▣▤▭▯▰▱▲△▶►▻▼▽◀◄◅◈◉◊○◐◑◒◓◔◕◖◜◝◞◟◠◡◢◣'
    '◤◥◧◨◬◭◮◴◵◸◹◺◿☀☸☹☼☿♀♁♂♃♄♅♆♇♠♡♤♧♩♪♫♬♭♮'
)

#: The 3,755 characters of level 1 of GB 2312-80 (rows 16 to 55, ordered by pronunciation).
GB2312_LEVEL1 = bytes(
    byte
    for row in range(0xB0, 0xD8)
    for cell in range(0xA1, 0xFA if row == 0xD7 else 0xFF)
    for byte in (row, cell)
).decode('gb2312')

ALPHABETS = {'symbols': SYMBOLS, 'gb2312': GB2312_LEVEL1}

#: Where Debian's packages put their fonts.
DEBIAN_FONTS = Path('/usr/share/fonts')


class DebianFont(NamedTuple):
    """A font that a Debian package installs; ``face`` is its number in a collection."""

    package: str
    path: str
    face: int


#: Number 2 of Noto's collections has the forms of mainland China.
CJK_FONTS: dict[str, DebianFont] = {
    'NotoSansCJK-Regular': DebianFont('fonts-noto-cjk', 'opentype/noto/NotoSansCJK-Regular.ttc', 2),
    'NotoSansCJK-Bold': DebianFont('fonts-noto-cjk', 'opentype/noto/NotoSansCJK-Bold.ttc', 2),
    'NotoSerifCJK-Regular': DebianFont(
        'fonts-noto-cjk', 'opentype/noto/NotoSerifCJK-Regular.ttc', 2
    ),
    'NotoSerifCJK-Bold': DebianFont('fonts-noto-cjk', 'opentype/noto/NotoSerifCJK-Bold.ttc', 2),
    'wqy-zenhei': DebianFont('fonts-wqy-zenhei', 'truetype/wqy/wqy-zenhei.ttc', 0),
    'wqy-microhei': DebianFont('fonts-wqy-microhei', 'truetype/wqy/wqy-microhei.ttc', 0),
    'ukai': DebianFont('fonts-arphic-ukai', 'truetype/arphic/ukai.ttc', 0),
    'uming': DebianFont('fonts-arphic-uming', 'truetype/arphic/uming.ttc', 0),
}

#: Alphabet -> split -> fonts; no font is in two splits.
FONTS: dict[str, dict[str, tuple[str, ...]]] = {
    'symbols': rendering.FONTS,
    'gb2312': {
        'train': (
            'NotoSansCJK-Regular',
            'NotoSansCJK-Bold',
            'NotoSerifCJK-Bold',
            'wqy-zenhei',
            'ukai',
        ),
        'val': ('NotoSerifCJK-Regular',),
        'test': ('wqy-microhei', 'uming'),
    },
}


def locate(fonts: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return file and face number of each font.

    Args:
        fonts: Names of :data:`CJK_FONTS` or files that matplotlib ships, as in
            :data:`mmext.datasets.rendering.FONTS`.

    Raises:
        ValueError: A name is unknown.
        FileNotFoundError: A font is not installed; all Debian packages to install are named.
    """
    shipped = rendering.package_dir('matplotlib') / 'mpl-data' / 'fonts' / 'ttf'
    known = {name: (shipped / name, 0) for part in rendering.FONTS.values() for name in part}
    known |= {name: (DEBIAN_FONTS / font.path, font.face) for name, font in CJK_FONTS.items()}
    unknown = [name for name in fonts if name not in known]
    if unknown:
        raise ValueError(f'fonts {unknown} are unknown; there are: {", ".join(sorted(known))}')
    missing = [name for name in fonts if not known[name][0].is_file()]
    if missing:
        files = ', '.join(str(known[name][0]) for name in missing)
        packages = sorted({CJK_FONTS[name].package for name in missing if name in CJK_FONTS})
        fix = f'apt-get install {" ".join(packages)}' if packages else 'reinstall matplotlib'
        raise FileNotFoundError(f'fonts are missing ({files}): {fix}')
    return {name: (str(known[name][0]), known[name][1]) for name in fonts}


@lru_cache(maxsize=64)
def covered(path: str, face: int) -> frozenset[str]:
    """Return the characters that a font has.

    Of Computer Modern only ASCII letters and digits count: other codes hold other signs there.
    """
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

    with TTFont(path, fontNumber=face, lazy=True) as font:
        characters = frozenset(map(chr, font.getBestCmap()))
    if Path(path).name.startswith('cm'):
        return frozenset(c for c in characters if c.isascii() and c.isalnum())
    return characters


class Masters:
    """Characters in several fonts, each rasterised once.

    Args:
        characters: All that will be drawn.
        fonts: Names as in :func:`locate`.
        height: Nominal height of the font in pixels.

    Raises:
        ValueError: A character is in none of the fonts.
        FileNotFoundError: A font is not installed.
    """

    def __init__(self, characters: Sequence[str], fonts: Sequence[str], height: int) -> None:
        files = locate(fonts)
        self.fonts = {
            c: [name for name, file in files.items() if c in covered(*file)] for c in characters
        }
        bare = [c for c, names in self.fonts.items() if not names]
        if bare:
            raise ValueError(
                f'classes {"".join(bare[:20])!r} are in none of the fonts {", ".join(fonts)}; '
                "choose other fonts (alphabet='gb2312' has Chinese ones) or leave them out"
            )
        self._height = height
        self._faces = {
            name: ImageFont.truetype(path, height, index=face)
            for name, (path, face) in files.items()
        }
        self._ink: dict[tuple[str, str], np.ndarray] = {}

    def ink(self, character: str, font: str) -> np.ndarray:
        """Return the opacity of a character, uint8 ``(h, w)`` cut to its ink."""
        key = character, font
        if key not in self._ink:
            size = 2 * self._height
            canvas = Image.new('L', (size, size))
            start = self._height // 2, self._height // 4
            ImageDraw.Draw(canvas).text(start, character, fill=255, font=self._faces[font])
            bounds = canvas.getbbox()
            if bounds is None:
                raise ValueError(f'{font} draws nothing for {character!r}')
            self._ink[key] = np.asarray(canvas.crop(bounds))
        return self._ink[key]


def draw_glyph(rng: np.random.Generator, ink: np.ndarray, size: int) -> np.ndarray:
    """Draw ink, light on black, with random geometry and stroke width.

    Rotation up to 12 degrees, slant up to 0.15, aspect up to 1.15, longer side 0.675 to 0.875 of
    the image, any place inside it, strokes thinner or thicker, brightness 0.7 to 1.

    Args:
        rng: Source of all that is random.
        ink: Opacity uint8 ``(h, w)``.
        size: Height and width of the result in pixels.

    Returns:
        Grey image uint8 ``(size, size)``.
    """
    turn, slant, aspect, side, x, y, blur, level, light = rng.uniform(-1, 1, 9).tolist()
    angle = math.radians(rendering.MAX_ANGLE * turn)
    cos, sin, stretch, slant = math.cos(angle), math.sin(angle), 1.15**aspect, 0.15 * slant
    # Rotation times slant and stretch, without the scale.
    a, b, c, d = stretch * cos, slant * cos + sin, -stretch * sin, cos - slant * sin
    height, width = ink.shape
    wide, high = abs(a) * width + abs(b) * height, abs(c) * width + abs(d) * height
    scale = size * (0.775 + 0.1 * side) / max(wide, high)
    a, b, c, d = scale * a, scale * b, scale * c, scale * d
    # A sixteenth on each side stays free: the blur does not reach the border.
    x = size / 2 - 0.5 + x * ((size - scale * wide) / 2 - size / 16)
    y = size / 2 - 0.5 + y * ((size - scale * high) / 2 - size / 16)
    u, v = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[a, b, x - a * u - b * v], [c, d, y - c * u - d * v]])
    image = cv2.warpAffine(ink, matrix, (size, size))
    image = cv2.GaussianBlur(image, (0, 0), size / 32 * (0.55 + 0.15 * blur))
    # A ramp that starts at a random level of the blurred edge moves the edge.
    image = cv2.subtract(image, 255 * (0.18 + 0.12 * level))
    return cv2.convertScaleAbs(
        cv2.convertScaleAbs(image, alpha=1 / 0.35), alpha=0.85 + 0.15 * light
    )


@DATASETS.register_module()
class GlyphDataset(LabelledImages):
    """Characters of many fonts as classification data that needs no download.

    Items are ``{'img': uint8 (size, size, channels), 'gt_label': int, 'sample_idx': int}``, light
    on black. The class of sample i is ``i % number of classes``; sample i depends on ``seed``,
    ``split``, i and the fonts alone. All samples are rendered at the first access (20,000 at size
    32 take about 4 s and 20 MB; all of 'gb2312' 12 s, mostly for rasterising 18,775 masters).

    Args:
        split: 'train', 'val' or 'test'.
        classes: The first n characters of ``alphabet``, or the characters themselves (a string or
            a list of single characters).
        alphabet: 'symbols', 331 letters and symbols in fonts that matplotlib ships
            (:data:`SYMBOLS`), or 'gb2312', the 3,755 Chinese characters of GB 2312-80 level 1 in
            fonts of Debian packages (:data:`CJK_FONTS`).
        fonts: By default those of the split, so that validation and test have fonts of their own
            (:data:`FONTS`); 'all' are those of all splits; or a list of names. A character is
            drawn with those of them that have it.
        size: Height and width in pixels, >= 16.
        channels: 1 (grey) or 3 (three equal channels).
        num_samples: Number of samples, >= 1.
        seed: Seed of the rendering.
        pipeline: Transforms.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: An argument is out of its range or a character is in none of the fonts.
        FileNotFoundError: A font is not installed; the message names its Debian package.
        ImportError: matplotlib is not installed.

    Example:
        >>> dataset = dict(type='mmext.GlyphDataset', split='train', classes=200, channels=3,
        ...                num_samples=20000, pipeline=[dict(type='PackInputs')])
    """

    def __init__(
        self,
        split: str,
        classes: int | str | Sequence[str] = 200,
        alphabet: str = 'symbols',
        fonts: str | Sequence[str] | None = None,
        size: int = 32,
        channels: int = 1,
        num_samples: int = 20000,
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        rendering.check_split(split)
        if alphabet not in ALPHABETS:
            raise ValueError(f'alphabet must be one of {", ".join(ALPHABETS)}, got {alphabet!r}')
        if size < 16:
            raise ValueError(f'size must be at least 16 pixels, got {size}')
        if channels not in (1, 3):
            raise ValueError(f'channels must be 1 or 3, got {channels}')
        if num_samples < 1:
            raise ValueError(f'num_samples must be at least 1, got {num_samples}')
        self.split = split
        self.fonts = _choose_fonts(fonts, alphabet, split)
        self.size = size
        self.channels = channels
        self.num_samples = num_samples
        self.seed = seed
        characters = _choose_classes(classes, alphabet)
        metainfo = {**(metainfo or {}), 'classes': characters}
        super().__init__(pipeline=list(pipeline), metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Render all samples, see the class."""
        characters = self.metainfo['classes']
        # Larger than the result, so that warping hardly ever enlarges.
        masters = Masters(characters, self.fonts, height=round(1.5 * self.size))
        items = []
        for index in range(self.num_samples):
            label = index % len(characters)
            character = characters[label]
            rng = np.random.default_rng(derive_seed(self.seed, 'glyphs', self.split, index))
            fonts = masters.fonts[character]
            ink = masters.ink(character, fonts[rng.integers(len(fonts))])
            image = draw_glyph(rng, ink, self.size)
            items.append({'img': np.repeat(image[..., None], self.channels, 2), 'gt_label': label})
        return items


def _choose_classes(classes: int | str | Sequence[str], alphabet: str) -> tuple[str, ...]:
    if isinstance(classes, int):
        known = ALPHABETS[alphabet]
        if not 1 <= classes <= len(known):
            raise ValueError(
                f'classes={classes} must be in 1..{len(known)}, the size of alphabet {alphabet!r}'
            )
        return tuple(known[:classes])
    chosen = tuple(classes)
    if not chosen or any(len(character) != 1 for character in chosen):
        raise ValueError(f'classes must be single characters, at least one, got {classes!r}')
    if len(set(chosen)) != len(chosen):
        twice = sorted({character for character in chosen if chosen.count(character) > 1})
        raise ValueError(f'classes has {"".join(twice)!r} more than once')
    return chosen


def _choose_fonts(fonts: str | Sequence[str] | None, alphabet: str, split: str) -> tuple[str, ...]:
    if fonts is None:
        return FONTS[alphabet][split]
    if fonts == 'all':
        return tuple(name for part in FONTS[alphabet].values() for name in part)
    if isinstance(fonts, str) or not fonts:
        raise ValueError(f"fonts must be None, 'all' or a list of names, got {fonts!r}")
    return tuple(fonts)
