"""Pictures on the wire: the header is judged before a pixel is decoded."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..interfaces import Frame

FORMATS = ('JPEG', 'PNG')


class ImageError(ValueError):
    """A picture is refused before or while it is decoded.

    Attributes:
        too_large (bool): It was refused for its size.
    """

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may be.

    Args:
        max_bytes (int): Of the compressed picture. Default 4 MiB.
        max_side (int): Longest side, pixels. Default 4096.
        max_pixels (int): Width times height. Default 8.3 million (3840 x 2160).
    """

    max_bytes: int = 4 << 20
    max_side: int = 4096
    max_pixels: int = 3840 * 2160


def decode(data: bytes, limits: ImageLimits) -> Frame:
    """Decode a JPEG or PNG whose header keeps the limits.

    Header and pixels are read by the same parser, so what was judged is what gets decoded.
    Progressive JPEG (its many passes cost more than its size tells) and animated PNG are refused.

    Args:
        data (bytes): The file.
        limits (ImageLimits): Bounds; nothing beyond them is allocated.

    Returns:
        np.ndarray: uint8 (H, W, 3), RGB.

    Raises:
        ImageError: The picture is too large or no such picture.
    """
    with _opened(data, limits) as image:
        try:
            return np.array(image.convert('RGB'))
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise ImageError('damaged picture') from error


def check(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """Return (height, width) from the header alone.

    Raises:
        ImageError: As :func:`decode`, for what the header tells.
    """
    with _opened(data, limits) as image:
        return image.height, image.width


def _opened(data: bytes, limits: ImageLimits) -> Image.Image:
    if len(data) > limits.max_bytes:
        raise ImageError(f'{len(data)} bytes are more than {limits.max_bytes}', too_large=True)
    try:
        # Reads the header only.
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError('too many pixels', too_large=True) from error
    except Exception as error:  # the parsers raise whatever struct and zlib raise
        raise ImageError('no JPEG or PNG') from error
    width, height = image.size
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise ImageError(f'{width}x{height} pixels are too many', too_large=True)
    if image.info.get('progressive') or getattr(image, 'n_frames', 1) > 1:
        raise ImageError('progressive and animated pictures are not taken')
    return image


def encode(frame: Frame, quality: int | None = 92) -> bytes:
    """Encode a frame without any metadata.

    Args:
        frame (np.ndarray): uint8 (H, W, 3), RGB.
        quality (int or None): Of JPEG, 1 to 95, without chroma subsampling; None: PNG, lossless.

    Returns:
        bytes: The file.
    """
    file = io.BytesIO()
    image = Image.fromarray(frame)
    if quality is None:
        image.save(file, 'PNG', compress_level=1)
    else:
        image.save(file, 'JPEG', quality=quality, subsampling=0)
    return file.getvalue()
