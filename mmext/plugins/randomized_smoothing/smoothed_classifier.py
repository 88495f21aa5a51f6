"""The smoothed classifier: what the base classifier predicts most often under noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmext.attacks.adversarial import attack_mode, check_logits, content_mask
from mmext.engine.rng import generator
from mmext.registry import MODELS

from . import functional
from .wrapper import ClassifierWrapper

TASKS = ('certify', 'predict')


@dataclass
class Sampled:
    """Counts of a batch of images.

    Args:
        select: Class counts of the n0 selection samples, int64 (N, K).
        counts: Class counts of the fresh samples, int64 (N, K).
        alpha: Level that the certificate of each image may use, (N,).
    """

    select: np.ndarray
    counts: np.ndarray
    alpha: np.ndarray

    def certify(self, sigma: float, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and radii, (N,) each; see :func:`functional.certify`."""
        prediction = np.empty(len(self.alpha), np.int64)
        radius = np.empty(len(self.alpha))
        for level in np.unique(self.alpha):
            rows = self.alpha == level
            prediction[rows], radius[rows] = functional.certify(
                self.select[rows], self.counts[rows], sigma, float(level), method
            )
        return prediction, radius


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
        for name, value in (('n0', n0), ('n', n), ('batch', batch), ('images', images)):
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1')
        if not 0 < alpha < 1:
            raise ValueError(f'alpha={alpha} must be in (0, 1)')
        if method not in functional.METHODS:
            raise ValueError(f'method={method!r} must be one of {list(functional.METHODS)}')
        if task not in TASKS:
            raise ValueError(f'task={task!r} must be one of {list(TASKS)}')
        if target_radius is not None and not target_radius > 0:
            raise ValueError(f'target_radius={target_radius} must be positive, or None')
        self.n0, self.n, self.alpha = n0, n, alpha
        self.method, self.task = method, task
        self.batch, self.images = batch, images
        self.share_noise, self.target_radius, self.seed = share_noise, target_radius, seed
        self._anonymous = 0

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
        parts = [
            self.sample(pixels[start : start + self.images], keys[start : start + self.images])
            for start in range(0, len(pixels), self.images)
        ]
        found = [part.certify(self.sigma, self.method) for part in parts]
        prediction, radius = zip(*found, strict=True)
        return np.concatenate(prediction), np.concatenate(radius)

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
        counter = _Counter(self, pixels, keys, mask, on_samples)
        everyone = np.arange(len(pixels))
        select = counter.count('select', 0, self.n0, everyone).cpu().numpy()
        if self.target_radius is None:
            counts = counter.count('estimate', 0, self.n, everyone).cpu().numpy()
            return Sampled(select, counts, np.full(len(pixels), self.alpha))
        return self._sample_to_target(counter, select)

    def _sample_to_target(self, counter: '_Counter', select: np.ndarray) -> Sampled:
        result = Sampled(select, np.zeros_like(select), np.zeros(len(select)))
        top, done = select.argmax(1), 0
        active = np.arange(len(select))
        for size, level in functional.sampling_stages(self.n, self.alpha):
            # Looks come after whole chunks, so no sample is drawn and thrown away.
            end = min(self.n, -(-size // counter.chunk) * counter.chunk)
            if end == done:
                continue
            result.counts[active] += counter.count('estimate', done, end, active).cpu().numpy()
            result.alpha[active] = level
            done = end
            seen = result.counts[active]
            _, radius = functional.certify(select[active], seen, self.sigma, level, self.method)
            reach = functional.radius_within_reach(
                seen, top[active], self.sigma, level, self.method
            )
            active = active[(radius < self.target_radius) & (reach >= self.target_radius)]
            if not len(active):
                break
        return result

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
                counter = _Counter(self, pixels[part], keys[part], shown, None)
                counts = counter.count('predict', 0, self.n, np.arange(len(pixels[part])))
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


class _Counter:
    """Draws noise for a few images and counts the winning classes on the device."""

    def __init__(
        self,
        model: SmoothedClassifier,
        pixels: Tensor,
        keys: Sequence[int],
        mask: Tensor | None,
        on_samples: Callable[[int], None] | None,
    ) -> None:
        self.model, self.keys, self.mask, self.on_samples = model, list(keys), mask, on_samples
        space = model.space
        self.inputs = space.to_inputs(pixels)
        unit = torch.ones_like(pixels[:1, :, :1, :1])
        # Noise of sigma pixels in the units of the model's inputs, per channel.
        self.scale = model.sigma * (space.to_inputs(unit) - space.to_inputs(0 * unit))
        self.chunk = max(1, model.batch // model.images)
        self.checked = False

    def count(self, stream: str, begin: int, end: int, rows: np.ndarray) -> Tensor:
        """Class counts of samples begin … end - 1 of a stream for the images ``rows``, (N, K)."""
        device = self.inputs.device
        whole = len(rows) == len(self.inputs)
        chosen = torch.as_tensor(rows, device=device)
        inputs = self.inputs if whole else self.inputs[chosen]
        mask = self.mask if whole or self.mask is None else self.mask[chosen]
        counts: Tensor | None = None
        classifier = self.model.classifier
        with attack_mode(classifier, device.type), torch.inference_mode():
            for start in range(begin, end, self.chunk):
                copies = min(self.chunk, end - start)
                noise = self._noise(stream, start // self.chunk, rows)[:copies]
                noise = noise if mask is None else noise * mask
                logits = classifier((inputs + noise).flatten(0, 1), mode='tensor')
                logits = logits[0] if isinstance(logits, tuple | list) else logits
                logits = logits.reshape(copies * len(rows), -1)
                if not self.checked:
                    check_logits(logits)
                    self.checked = True
                winners = logits.argmax(1).reshape(copies, len(rows)).T
                if counts is None:
                    counts = winners.new_zeros((len(rows), logits.shape[1]))
                counts.scatter_add_(1, winners, torch.ones_like(winners))
                if self.on_samples is not None:
                    self.on_samples(copies * len(rows))
        if counts is None:
            raise ValueError(f'no samples between {begin} and {end}')
        return counts

    def _noise(self, stream: str, chunk: int, rows: np.ndarray) -> Tensor:
        """Noise of one chunk, (copies, 1 or N, C, H, W)."""
        device, shape = self.inputs.device, self.inputs.shape[1:]
        shared = self.model.share_noise
        parts = []
        for key in [-1] if shared else [self.keys[row] for row in rows]:
            source = generator(
                self.model.seed, f'randomized_smoothing/{stream}', key, chunk, device=device
            )
            parts.append(torch.randn((self.chunk, *shape), generator=source, device=device))
        noise = parts[0][:, None] if shared else torch.stack(parts, 1)
        return noise.mul_(self.scale)
