"""Stylised frames between key frames, by optical flow (arXiv 2005.11630; all rules here are ours).

The original of every frame is at hand, so nothing has to be invented: flow goes from the frame to
its keys and brings their stylised pixels, or their local colour transforms, back.
"""

from typing import Any

import cv2
import numpy as np

from . import local_affine
from .flow import DISFlow, confidence, grey, resize, resize_flow, warp, working_size
from .interfaces import Frame, KeyFrame, Propagation, check_frame

#: Confidence below which a place counts as a hole.
HOLE = 0.02


class Hold(Propagation):
    """Repeat the last key frame: what a player without propagation shows.

    Example:
        >>> propagation = PROPAGATIONS.build(dict(type='mmext.Hold'))

    Cost: none.
    """

    def propagate(
        self, frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None = None
    ) -> Frame:
        """The stylised key, see :class:`.Propagation`."""
        return _sized(frame, _ordered(frame, index, past, future)[0])


class _ByFlow(Propagation):
    """Flow between a frame and its keys at a small size.

    Args:
        flow_side: Longer side in pixels at which flow is computed, >= 32.
        preset: Of DIS flow, 'ultrafast', 'fast' or 'medium'.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, flow_side: int = 480, preset: str = 'medium') -> None:
        if flow_side < 32:
            raise ValueError(f'flow_side={flow_side} must be at least 32 pixels')
        self.flow_side = flow_side
        self.flow = DISFlow(preset)

    def key_grey(self, key: KeyFrame) -> np.ndarray:
        """Small grey image of a key, made once."""
        name = 'grey', self.flow_side
        if name not in key.cache:
            key.cache[name] = grey(key.frame, self.flow_side)
        return key.cache[name]


class WarpPrevious(_ByFlow):
    """Warp the last stylised key to the frame; causal.

    Args:
        flow_side: Longer side in pixels at which flow is computed, >= 32 (ours).
        preset: Of DIS flow, 'ultrafast', 'fast' or 'medium' (ours).

    Example:
        >>> propagation = PROPAGATIONS.build(dict(type='mmext.WarpPrevious'))

    Cost: a flow at the small size and one warp of the frame.
    """

    def propagate(
        self, frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None = None
    ) -> Frame:
        """Warp the key, see :class:`.Propagation`."""
        key = _ordered(frame, index, past, future)[0]
        stylised = _sized(frame, key)
        if index == key.index:
            return stylised
        flow = self.flow(grey(frame, self.flow_side), self.key_grey(key))
        return warp(stylised, resize_flow(flow, frame.shape[:2]))


class AffinePropagation(_ByFlow):
    """Carry the local colour transform of the keys along the flow, apply it to the frame (ours).

    No pixel is warped, so nothing blurs, doubles or tears, and a key may be stylised at any size:
    the transform is fitted at ``fit_side`` and applied at full resolution, the key itself
    included. With a key on both sides their transforms are mixed by distance and confidence; where
    no key is to be trusted, the transform of the whole frame stands in.

    Args:
        scope: 'local', or 'global': one transform for the whole frame and no flow.
        flow_side: Longer side in pixels at which flow is computed, >= 32.
        fit_side: Longer side in pixels at which transforms are fitted, >= 32.
        cell: Pixels of the fit per grid cell, >= 1.
        radius: Cells around a cell that its window includes, >= 0.
        ridge: Variance of colours in [0, 1] below which the frame's transform rules, > 0.
        preset: Of DIS flow, 'ultrafast', 'fast' or 'medium'.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> propagation = PROPAGATIONS.build(dict(type='mmext.AffinePropagation'))

    Cost per frame: a flow at the small size per key and one transform of the frame; per key one
    fit at the small size.
    """

    full_size = False
    bidirectional = True

    def __init__(
        self,
        scope: str = 'local',
        flow_side: int = 480,
        fit_side: int = 480,
        cell: int = 2,
        radius: int = 1,
        ridge: float = 1e-3,
        preset: str = 'medium',
    ) -> None:
        super().__init__(flow_side, preset)
        if scope not in ('local', 'global'):
            raise ValueError(f"scope={scope!r} must be 'local' or 'global'")
        if fit_side < 32 or cell < 1 or radius < 0 or not ridge > 0:
            raise ValueError(
                f'fit_side={fit_side} must be at least 32, cell={cell} at least 1, '
                f'radius={radius} at least 0 and ridge={ridge} above 0'
            )
        self.scope = scope
        self.fit_side = fit_side
        self.cell = cell
        self.radius = radius
        self.ridge = ridge

    def propagate(
        self, frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None = None
    ) -> Frame:
        """Transform the frame, see :class:`.Propagation`."""
        return local_affine.apply(frame, self.grid(frame, index, past, future))

    def grid(
        self, frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None = None
    ) -> np.ndarray:
        """Transforms of a frame, float32 (12, gh, gw)."""
        keys = _ordered(frame, index, past, future)
        if index == keys[0].index or self.scope == 'global':
            keys = keys[:1] if index == keys[0].index else keys
            shares = _shares(index, keys)
            grids = [self.key_grid(key) for key in keys]
            mixed = [s * g for s, g in zip(shares, grids, strict=True)]
            return np.stack(mixed).sum(0).astype(np.float32)
        here = grey(frame, self.flow_side)
        total: Any = 0.0
        weight: Any = 0.0
        for share, key in zip(_shares(index, keys), keys, strict=True):
            there = self.key_grey(key)
            flow = self.flow(here, there)
            grid = self.key_grid(key)
            size = grid.shape[1:]
            trust = cv2.resize(
                confidence(here, there, flow), size[::-1], interpolation=cv2.INTER_AREA
            )
            moved = _warp_planes(grid, resize_flow(flow, size))
            # A hole follows the transform of the whole key.
            moved = trust * moved + (1 - trust) * self.key_mean(key)
            share = share * (trust + HOLE)
            total = total + share * moved
            weight = weight + share
        return (total / weight).astype(np.float32)

    def key_grid(self, key: KeyFrame) -> np.ndarray:
        """Transforms of a key, fitted once."""
        name = 'grid', self.scope, self.fit_side, self.cell, self.radius, self.ridge
        if name not in key.cache:
            size = working_size(key.stylised.shape, self.fit_side)
            guide, target = resize(key.frame, size), resize(key.stylised, size)
            cells = max(1, size[0] // self.cell), max(1, size[1] // self.cell)
            if self.scope == 'global':
                whole = local_affine.fit_global(guide, target, self.ridge)
                key.cache[name] = local_affine.constant(whole, (1, 1))
            else:
                key.cache[name] = local_affine.fit(guide, target, cells, self.radius, self.ridge)
        return key.cache[name]

    def key_mean(self, key: KeyFrame) -> np.ndarray:
        """Transform of a whole key as planes (12, 1, 1), fitted once."""
        name = 'global', self.fit_side, self.ridge
        if name not in key.cache:
            size = working_size(key.stylised.shape, self.fit_side)
            whole = local_affine.fit_global(
                resize(key.frame, size), resize(key.stylised, size), self.ridge
            )
            key.cache[name] = local_affine.constant(whole, (1, 1))
        return key.cache[name]


class FlowBlend(_ByFlow):
    """Warp the keys on both sides to the frame and blend them where they can be trusted.

    The reading of the paper's interpolation closest to its words. Weights are the distance in time
    times the confidence of the warp (forward-backward error and colour difference); where neither
    key can be seen, :class:`AffinePropagation` fills. Causal where there is no key after the frame.

    Args:
        flow_side: Longer side in pixels at which flow is computed, >= 32 (ours).
        preset: Of DIS flow, 'ultrafast', 'fast' or 'medium' (ours).
        fill: Fill what no key shows; else the nearest key's warp stays there.

    Example:
        >>> propagation = PROPAGATIONS.build(dict(type='mmext.FlowBlend'))

    Cost per frame: two flows per key at the small size, a warp of the frame per key, a blend, and
    the transform of the rows that have holes.
    """

    bidirectional = True

    def __init__(self, flow_side: int = 480, preset: str = 'medium', fill: bool = True) -> None:
        super().__init__(flow_side, preset)
        self.fill = AffinePropagation(flow_side=flow_side, preset=preset) if fill else None

    def propagate(
        self, frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None = None
    ) -> Frame:
        """Blend the keys, see :class:`.Propagation`."""
        keys = _ordered(frame, index, past, future)
        images = [_sized(frame, key) for key in keys]
        if index == keys[0].index:
            return images[0]
        here = grey(frame, self.flow_side)
        size = frame.shape[:2]
        warped, weights = [], []
        for share, key, image in zip(_shares(index, keys), keys, images, strict=True):
            there = self.key_grey(key)
            flow, back = self.flow(here, there), self.flow(there, here)
            trust = confidence(here, there, flow, back)
            warped.append(warp(image, resize_flow(flow, size)))
            weights.append(share * trust)
        seen = np.sum(weights, 0)
        blended = warped[0]
        if len(warped) == 2:
            # Where nothing can be trusted, the shares of time alone decide.
            shares = np.array(_shares(index, keys), np.float32) * 1e-4
            part = (weights[0] + shares[0]) / (seen + shares.sum())
            part = cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR)
            blended = cv2.blendLinear(warped[0], warped[1], part, 1 - part)
        if self.fill is None:
            return blended
        return self._filled(frame, index, past, future, blended, seen)

    def _filled(
        self,
        frame: Frame,
        index: int,
        past: KeyFrame | None,
        future: KeyFrame | None,
        blended: Frame,
        seen: np.ndarray,
    ) -> Frame:
        """Put the affine form where ``seen`` is small; only rows with holes are computed."""
        assert self.fill is not None  # for type checkers
        # 0 where at least a tenth can be trusted, 1 where nothing can.
        holes = np.clip(1 - seen / 0.1, 0, 1).astype(np.float32)
        holes = cv2.resize(holes, frame.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        strips = [
            slice(start, min(start + 64, len(frame)))
            for start in range(0, len(frame), 64)
            if holes[start : start + 64].max() > HOLE
        ]
        if not strips:
            return blended
        grid = self.fill.grid(frame, index, past, future)
        for rows in strips:
            filling = local_affine.apply(frame, grid, rows)
            blended[rows] = cv2.blendLinear(filling, blended[rows], holes[rows], 1 - holes[rows])
        return blended


def _ordered(
    frame: Frame, index: int, past: KeyFrame | None, future: KeyFrame | None
) -> list[KeyFrame]:
    """Keys of a frame, the past one first; checked."""
    check_frame(frame)
    if past is None and future is None:
        raise ValueError('propagation needs a key frame: past and future are both None')
    if past is not None and past.index > index or future is not None and future.index <= index:
        raise ValueError(
            f'keys {past and past.index} and {future and future.index} are not around frame {index}'
        )
    keys = [key for key in (past, future) if key is not None]
    for key in keys:
        if key.frame.shape != frame.shape:
            raise ValueError(f'key {key.index} has size {key.frame.shape}, frame {frame.shape}')
    return keys


def _shares(index: int, keys: list[KeyFrame]) -> list[float]:
    """Weights in time: linear between two keys."""
    if len(keys) == 1:
        return [1.0]
    part = (index - keys[0].index) / (keys[1].index - keys[0].index)
    return [1 - part, part]


def _sized(frame: Frame, key: KeyFrame) -> Frame:
    """Stylised key, which must have the frame's size."""
    if key.stylised.shape != frame.shape:
        raise ValueError(
            f'the stylised key {key.index} has size {key.stylised.shape}, the frame {frame.shape}: '
            'upscale it, or take AffinePropagation, which needs no upscaling'
        )
    return key.stylised


def _warp_planes(planes: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Warp (12, h, w) by one flow; OpenCV takes four channels at a time."""
    groups = (planes[k : k + 4].transpose(1, 2, 0) for k in range(0, len(planes), 4))
    moved = [warp(np.ascontiguousarray(group), flow) for group in groups]
    return np.concatenate([group.transpose(2, 0, 1) for group in moved])
