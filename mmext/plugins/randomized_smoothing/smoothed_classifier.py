"""The smoothed classifier: what the base classifier predicts most often under noise."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmext.attacks.adversarial import content_mask
from mmext.registry import MODELS

from . import functional
from .sampling import NoiseSampler, Sampled, Smoothing, certify_in_parts
from .wrapper import ClassifierWrapper

TASKS = ('certify', 'predict')


@MODELS.register_module()
class SmoothedClassifier(ClassifierWrapper):
    """Certify, or predict with abstention, under Gaussian noise (arXiv 1902.02918, 2002.07246).

    Many images share a forward pass, and their classes are counted on the device; the host waits
    once per look at the counts. Noise is added to the pixels before normalisation and not to
    padding; nothing is clipped. It comes from streams of (seed, chunk), so a run can be cut
    anywhere and repeated.

    Args:
        classifier: Config of any MMPretrain classifier that gives logits.
        sigma: Standard deviation of the noise in pixels of range [0, 1], > 0; the radius has the
            same unit.
        n0: Samples that choose the class, >= 1.
        n: Samples that bound it, or that ``'predict'`` counts, >= 1. Radii cannot exceed what n
            allows: 3.8 sigma for 100,000 at alpha 0.001.
        alpha: Chance of a wrong certificate (or prediction) per image, in (0, 1).
        method: ``'t_certify'`` or ``'cohen'``.
        task: What :meth:`predict` does: ``'certify'`` or ``'predict'``.
        batch: Noisy images per forward pass, >= 1.
        images: Images that share it, >= 1.
        share_noise: Give all images the same noise, which is drawn once. The certificate of each
            image holds as well; those of two images are no longer independent of each other.
        target_radius: Stop sampling an image once it is certified at this radius, or once it is
            clear that it will not be; None: always n samples. Looks share alpha, see
            :func:`functional.sampling_stages`.
        seed: Of the noise.
        data_preprocessor, bounds: See :class:`ClassifierWrapper`.

    Raises:
        ValueError: An argument is out of its range.

    Cost: ``n0 + n`` forward passes per image.

    Example:
        >>> model = dict(type='mmext.SmoothedClassifier', classifier=..., sigma=0.5, n=10000)
        >>> test_evaluator = dict(type='mmext.CertifiedRadius', radii=[0, 0.5, 1.0])
    """

    def __init__(
        self,
        classifier: dict | nn.Module,
        sigma: float,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        method: str = 't_certify',
        task: str = 'certify',
        batch: int = 1024,
        images: int = 16,
        share_noise: bool = True,
        target_radius: float | None = None,
        seed: int = 0,
        data_preprocessor: dict | nn.Module | None = None,
        bounds: tuple[float, float] = (0, 255),
    ) -> None:
        super().__init__(classifier, sigma, data_preprocessor, bounds)
        if task not in TASKS:
            raise ValueError(f'task={task!r} must be one of {list(TASKS)}')
        self.n0, self.n, self.alpha = n0, n, alpha
        self.method, self.task = method, task
        self.batch, self.images = batch, images
        self.share_noise, self.target_radius, self.seed = share_noise, target_radius, seed
        self._anonymous = 0
        _ = self.smoothing  # refuses numbers out of range

    @property
    def smoothing(self) -> Smoothing:
        """How it is sampled."""
        return Smoothing(**{field.name: getattr(self, field.name) for field in fields(Smoothing)})

    def certify(
        self, pixels: Tensor, keys: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Certify images.

        Args:
            pixels: (N, C, H, W) in [0, 1], in the channel order of the model.
            keys: An integer that names each image: its noise stream where noise is not shared.
                By default its position.

        Returns:
            ``(prediction, radius)``, int64 and float64 (N,); -1 and 0 where it abstains.
        """
        keys = range(len(pixels)) if keys is None else keys
        return certify_in_parts(
            len(pixels), self.smoothing, lambda part: self._sampler(pixels[part], keys[part])
        )

    def sample(
        self,
        pixels: Tensor,
        keys: Sequence[int],
        mask: Tensor | None = None,
        on_samples: Callable[[int], None] | None = None,
    ) -> Sampled:
        """Draw all samples that the certificates of a few images need.

        Args:
            pixels: (N, C, H, W) in [0, 1]; N images share each forward pass.
            keys: As in :meth:`certify`.
            mask: True on the image, False on padding, (N, 1, H, W); None: no padding.
            on_samples: Called with the number of noisy images after each forward pass; by then the
                device may still be at work.
        """
        return self._sampler(pixels, keys, mask, on_samples).sample()

    def _sampler(
        self,
        pixels: Tensor,
        keys: Sequence[int],
        mask: Tensor | None = None,
        on_samples: Callable[[int], None] | None = None,
    ) -> NoiseSampler:
        space = self.space
        unit = torch.ones_like(pixels[:1, :, :1, :1])
        return NoiseSampler(
            self.classifier,
            partial(self.classifier, mode='tensor'),
            space.to_inputs(pixels),
            # Noise of sigma pixels in the units of the model's inputs, per channel.
            self.sigma * (space.to_inputs(unit) - space.to_inputs(0 * unit)),
            self.smoothing,
            keys,
            mask,
            on_samples,
        )

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, **_: Any
    ) -> list[DataSample]:
        """Certify (or predict) a batch, as the test loop asks.

        Args:
            inputs: Normalised images, (N, C, H, W).
            data_samples: N samples or None. ``sample_idx`` names the noise stream of an image.

        Returns:
            N samples with ``pred_label``, -1 where it abstains; for ``task='certify'`` also
            ``certified_radius``.
        """
        samples = [DataSample() for _ in inputs] if data_samples is None else data_samples
        mask = content_mask(inputs, data_samples)
        pixels = self.space.to_pixels(inputs.float())
        keys = [self._key(sample) for sample in samples]
        for start in range(0, len(samples), self.images):
            part = slice(start, start + self.images)
            shown = None if mask is None else mask[part]
            if self.task == 'certify':
                sampled = self.sample(pixels[part], keys[part], shown)
                prediction, radius = sampled.certify(self.sigma, self.method)
                for sample, value in zip(samples[part], radius, strict=True):
                    sample.set_field(float(value), 'certified_radius')
            else:
                sampler = self._sampler(pixels[part], keys[part], shown)
                counts = sampler.count('predict', 0, self.n, np.arange(len(pixels[part])))
                prediction = functional.predict(counts, self.alpha)
            for sample, label in zip(samples[part], prediction, strict=True):
                sample.set_pred_label(int(label))
        return samples

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Refuse: this class evaluates.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            'SmoothedClassifier does not train; use mmext.ADREClassifier and load its checkpoint'
        )

    def _key(self, sample: DataSample) -> int:
        if 'sample_idx' in sample:
            return int(sample.sample_idx)
        self._anonymous += 1
        return self._anonymous
