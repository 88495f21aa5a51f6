"""Low-quality versions of images, and batches that hold both."""

from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement

from mmext.engine.rng import derive_seed
from mmext.registry import TRANSFORMS

Range = tuple[float, float]


def degrade(
    image: np.ndarray, shrink: float, blur: float, noise: float, quality: int, seed: int
) -> np.ndarray:
    """Blur, shrink and enlarge again, add noise, compress.

    Args:
        image: uint8 (H, W) or (H, W, C) with 1 or 3 channels.
        shrink: Factor between the original and the small size, >= 1.
        blur: Standard deviation of the Gaussian blur in pixels; 0: none.
        noise: Standard deviation of the pixel noise in grey levels; 0: none.
        quality: Of JPEG, 1..100; 0: no compression.
        seed: Of the noise.

    Returns:
        uint8 of the same shape.
    """
    height, width = image.shape[:2]
    result = image
    if blur:
        result = cv2.GaussianBlur(result, (0, 0), blur)
    if shrink > 1:
        small = max(round(width / shrink), 1), max(round(height / shrink), 1)
        result = cv2.resize(result, small, interpolation=cv2.INTER_AREA)
        result = cv2.resize(result, (width, height), interpolation=cv2.INTER_LINEAR)
    if noise:
        draws = np.random.default_rng(seed).standard_normal(result.shape, np.float32)
        result = np.clip(np.round(result + noise * draws), 0, 255).astype(np.uint8)
    if quality:
        _, code = cv2.imencode('.jpg', result, [cv2.IMWRITE_JPEG_QUALITY, quality])
        result = np.asarray(cv2.imdecode(code, cv2.IMREAD_UNCHANGED))
    return result.reshape(image.shape)


@TRANSFORMS.register_module()
class Degrade:
    """Add a low-quality version ``lq`` of ``img`` (ours: the paper's could not be read).

    What is degraded and how much is drawn for each image: blur, down- and up-sampling, noise, JPEG.
    Of a sample with ``is_hq=False`` (see ``mmext.HQSubset``), ``img`` becomes the low-quality
    version as well, so that nothing of its high quality reaches a model.

    Args:
        shrink: Range of the factor of down-sampling, >= 1.
        blur: Range of the standard deviation of the blur, in pixels, >= 0.
        noise: Range of the standard deviation of the noise, in grey levels, >= 0.
        quality: Range of the quality of JPEG, 1..100; None: no compression.
        fixed: Whether an image has one low-quality version for ever, as collected ones would, a
            function of ``seed`` and ``sample_idx``. False: a new one for each draw, from NumPy's
            global state.
        seed: With ``fixed``.

    Raises:
        ValueError: A range is out of bounds; in the call: the image is not uint8.

    Example:
        >>> pipeline = [dict(type='mmext.Degrade', shrink=(2, 4)), dict(type='mmext.PackGANInputs')]
    """

    def __init__(
        self,
        shrink: Range = (2, 4),
        blur: Range = (0, 1),
        noise: Range = (0, 8),
        quality: tuple[int, int] | None = (40, 90),
        fixed: bool = True,
        seed: int = 0,
    ) -> None:
        for name, bounds, lowest in (('shrink', shrink, 1), ('blur', blur, 0), ('noise', noise, 0)):
            if not lowest <= bounds[0] <= bounds[1]:
                raise ValueError(f'{name}={bounds} must be a range (low, high) from {lowest} on')
        if quality is not None and not 1 <= quality[0] <= quality[1] <= 100:
            raise ValueError(f'quality={quality} must be a range within 1..100')
        self.shrink = shrink
        self.blur = blur
        self.noise = noise
        self.quality = quality
        self.fixed = fixed
        self.seed = seed

    def __call__(self, results: dict) -> dict:
        """Add ``lq``."""
        image = results['img']
        if image.dtype != np.uint8:
            raise ValueError(f'Degrade takes uint8 images, got {image.dtype}; put it earlier')
        if self.fixed:
            seed = derive_seed(self.seed, 'degrade', int(results['sample_idx']))
        else:
            seed = int(np.random.randint(2**31))
        draws = np.random.default_rng(seed)
        quality = 0
        if self.quality is not None:
            quality = int(draws.integers(self.quality[0], self.quality[1] + 1))
        lq = degrade(
            image,
            draws.uniform(*self.shrink),
            draws.uniform(*self.blur),
            draws.uniform(*self.noise),
            quality,
            seed=int(draws.integers(2**31)),
        )
        results = {**results, 'lq': lq}
        if not results.get('is_hq', True):
            results['img'] = lq
        return results


@TRANSFORMS.register_module()
class PackGANInputs:
    """Pack a sample as ``mmext.CTFGAN`` takes it.

    ``inputs`` is a dict with ``img`` and, after ``mmext.Degrade``, ``lq``, uint8 tensors (C, H, W);
    ``data_samples`` has ``gt_label`` (1,), ``is_hq`` and ``sample_idx``. The dataloader needs
    ``collate_fn=dict(type='default_collate')``.

    Example:
        >>> pipeline = [dict(type='mmext.PackGANInputs')]
    """

    def __call__(self, results: dict) -> dict:
        """Pack."""
        inputs = {name: _tensor(results[name]) for name in ('img', 'lq') if name in results}
        sample = BaseDataElement(is_hq=bool(results.get('is_hq', True)))
        if results.get('gt_label') is not None:
            label: Any = torch.as_tensor(results['gt_label']).reshape(-1)
            sample.set_field(label, 'gt_label')
        sample.set_field(int(results.get('sample_idx', 0)), 'sample_idx')
        return {'inputs': inputs, 'data_samples': sample}


def _tensor(image: np.ndarray) -> torch.Tensor:
    image = image if image.ndim == 3 else image[..., None]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
