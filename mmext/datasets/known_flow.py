"""Clips with exactly known optical flow: a photo under a moving camera, and a sprite before it."""

from typing import NamedTuple

import cv2
import numpy as np


class KnownFlowClip:
    """A clip whose flow between any two frames is known exactly.

    The camera looks at a photo: pixel x of frame t shows the place ``A_t x + b_t`` of the photo. A
    sprite, cut from another photo, moves on a straight line before it.

    Args:
        background: Photo uint8 (H, W, 3).
        size: (height, width) of the frames, smaller than the photo.
        frames: Number of frames, >= 1.
        pan: Pixels (x, y) of the photo per frame; whole numbers without zoom and turn make frames
            that are exact shifts of each other.
        zoom: Factor per frame.
        turn: Degrees per frame.
        start: Place (x, y) of the photo that the first frame's corner shows.
        sprite: Image uint8 (h, w, 3); None: no sprite.
        sprite_start: Its corner (x, y) in the first frame, whole pixels.
        sprite_pan: Whole pixels (x, y) per frame.

    Raises:
        ValueError: A frame would leave the photo.

    Example:
        >>> clip = KnownFlowClip(photo('china'), (120, 160), 10, pan=(3, 1))
        >>> flow = clip.flow(2, 7)
    """

    def __init__(
        self,
        background: np.ndarray,
        size: tuple[int, int],
        frames: int,
        pan: tuple[float, float] = (0, 0),
        zoom: float = 1.0,
        turn: float = 0.0,
        start: tuple[float, float] = (0, 0),
        sprite: np.ndarray | None = None,
        sprite_start: tuple[int, int] = (0, 0),
        sprite_pan: tuple[int, int] = (0, 0),
    ) -> None:
        self.size = size
        self.sprite = sprite
        self._sprite_start = np.array(sprite_start)
        self._sprite_pan = np.array(sprite_pan)
        self.cameras = [_camera(t, size, pan, zoom, turn, start) for t in range(frames)]
        height, width = background.shape[:2]
        corners = np.array([[0, 0, 1], [size[1] - 1, 0, 1], [0, size[0] - 1, 1],
                            [size[1] - 1, size[0] - 1, 1]], np.float64)  # fmt: skip
        for t, camera in enumerate(self.cameras):
            places = corners @ camera.T
            if places.min() < 0 or (places > [width - 1, height - 1]).any():
                raise ValueError(f'frame {t} would leave the photo of {width}x{height} pixels')
        self.frames = [self._render(background, t) for t in range(frames)]

    def sprite_corner(self, t: int) -> tuple[int, int]:
        """Corner (x, y) of the sprite in frame t; it may lie outside."""
        x, y = self._sprite_start + t * self._sprite_pan
        return int(x), int(y)

    def covered(self, t: int) -> np.ndarray:
        """Where the sprite is in frame t, bool (h, w)."""
        mask = np.zeros(self.size, bool)
        if self.sprite is not None:
            there = self._overlap(t)
            mask[there.frame] = True
        return mask

    def flow(self, a: int, b: int) -> np.ndarray:
        """Flow from frame a to frame b, float32 (h, w, 2): places of a's pixels in b."""
        y, x = np.mgrid[: self.size[0], : self.size[1]].astype(np.float64)
        places = np.stack([x, y, np.ones_like(x)], 2) @ self.cameras[a].T
        camera = self.cameras[b]
        moved = (places - camera[:, 2]) @ np.linalg.inv(camera[:, :2]).T
        flow = moved - np.stack([x, y], 2)
        flow[self.covered(a)] = (b - a) * self._sprite_pan
        return flow.astype(np.float32)

    def visible(self, a: int, b: int) -> np.ndarray:
        """Whether a pixel of frame a can be seen in frame b, bool (h, w)."""
        height, width = self.size
        y, x = np.mgrid[:height, :width]
        flow = self.flow(a, b)
        u, v = x + flow[..., 0], y + flow[..., 1]
        inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
        # A bilinear sample must not touch the other layer.
        over = self.covered(b)
        nearby = cv2.dilate(over.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        columns, rows = (np.clip(np.rint(v_), 0, n - 1).astype(int)
                         for v_, n in ((u, width), (v, height)))  # fmt: skip
        return inside & (self.covered(a) | ~nearby[rows, columns])

    def _render(self, background: np.ndarray, t: int) -> np.ndarray:
        frame = cv2.warpAffine(
            background, self.cameras[t], (self.size[1], self.size[0]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )  # fmt: skip
        if self.sprite is not None:
            there = self._overlap(t)
            frame[there.frame] = self.sprite[there.sprite]
        return frame

    def _overlap(self, t: int) -> '_Overlap':
        assert self.sprite is not None  # for type checkers
        slices = []
        for corner, extent, side in zip(
            reversed(self.sprite_corner(t)), self.sprite.shape[:2], self.size, strict=True
        ):
            first, last = max(corner, 0), max(min(corner + extent, side), 0)
            first = min(first, last)
            slices.append((slice(first, last), slice(first - corner, last - corner)))
        (rows, own_rows), (columns, own_columns) = slices
        return _Overlap((rows, columns), (own_rows, own_columns))


class _Overlap(NamedTuple):
    """Slices of the frame and of the sprite that coincide."""

    frame: tuple[slice, slice]
    sprite: tuple[slice, slice]


def _camera(
    t: int,
    size: tuple[int, int],
    pan: tuple[float, float],
    zoom: float,
    turn: float,
    start: tuple[float, float],
) -> np.ndarray:
    """Matrix (2, 3) from pixels of frame t to the photo: turned and zoomed about the centre."""
    angle, scale = np.deg2rad(turn * t), zoom**-t
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    offset = np.array(start) + t * np.array(pan) + centre - linear @ centre
    return np.concatenate([linear, offset[:, None]], 1)
