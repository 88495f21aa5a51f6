"""How often each class wins under noise, for many images at a time; imports nothing of MMEngine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmext.attacks.adversarial import LogitsFn, attack_mode, check_logits
from mmext.engine.rng import generator

from . import functional


@dataclass(frozen=True)
class Smoothing:
    """How a smoothed classifier is sampled; for the fields see
    :class:`~mmext.plugins.randomized_smoothing.smoothed_classifier.SmoothedClassifier`.

    Raises:
        ValueError: A field is out of its range.
    """

    sigma: float
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    method: str = 't_certify'
    batch: int = 1024
    images: int = 16
    share_noise: bool = True
    target_radius: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        functional.check_sigma(self.sigma)
        for name in ('n0', 'n', 'batch', 'images'):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1')
        if not 0 < self.alpha < 1:
            raise ValueError(f'alpha={self.alpha} must be in (0, 1)')
        if self.method not in functional.METHODS:
            raise ValueError(f'method={self.method!r} must be one of {list(functional.METHODS)}')
        if self.target_radius is not None and not self.target_radius > 0:
            raise ValueError(f'target_radius={self.target_radius} must be positive, or None')


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


class NoiseSampler:
    """Draws noise for a few images and counts the winning classes on the device.

    Args:
        network: What is in eval mode meanwhile.
        logits: Noisy inputs (M, C, H, W) to logits (M, K).
        inputs: N images that share each forward pass, (N, C, H, W).
        scale: Standard deviation of the noise in units of ``inputs``, a number or (1, C, 1, 1).
        smoothing: The settings.
        keys: An integer that names each image: its noise stream where noise is not shared.
        mask: True on the image, False on padding, (N, 1, H, W); None: no padding.
        on_samples: Called with the number of noisy images after each forward pass; by then the
            device may still be at work.
    """

    def __init__(
        self,
        network: nn.Module,
        logits: LogitsFn,
        inputs: Tensor,
        scale: float | Tensor,
        smoothing: Smoothing,
        keys: Sequence[int],
        mask: Tensor | None = None,
        on_samples: Callable[[int], None] | None = None,
    ) -> None:
        self.network, self.logits, self.inputs, self.scale = network, logits, inputs, scale
        self.smoothing, self.keys = smoothing, list(keys)
        self.mask, self.on_samples = mask, on_samples
        self.chunk = max(1, smoothing.batch // smoothing.images)
        self.checked = False

    def sample(self) -> Sampled:
        """All samples that the certificates of the images need."""
        everyone, smoothing = np.arange(len(self.inputs)), self.smoothing
        select = self.count('select', 0, smoothing.n0, everyone).cpu().numpy()
        if smoothing.target_radius is not None:
            return self._sample_to_target(select, smoothing.target_radius)
        counts = self.count('estimate', 0, smoothing.n, everyone).cpu().numpy()
        return Sampled(select, counts, np.full(len(everyone), smoothing.alpha))

    def _sample_to_target(self, select: np.ndarray, target: float) -> Sampled:
        n, sigma, method = self.smoothing.n, self.smoothing.sigma, self.smoothing.method
        result = Sampled(select, np.zeros_like(select), np.zeros(len(select)))
        top, done = select.argmax(1), 0
        active = np.arange(len(select))
        for size, level in functional.sampling_stages(n, self.smoothing.alpha):
            # Looks come after whole chunks, so no sample is drawn and thrown away.
            end = min(n, -(-size // self.chunk) * self.chunk)
            if end == done:
                continue
            result.counts[active] += self.count('estimate', done, end, active).cpu().numpy()
            result.alpha[active] = level
            done = end
            seen = result.counts[active]
            _, radius = functional.certify(select[active], seen, sigma, level, method)
            reach = functional.radius_within_reach(seen, top[active], sigma, level, method)
            active = active[(radius < target) & (reach >= target)]
            if not len(active):
                break
        return result

    def count(self, stream: str, begin: int, end: int, rows: np.ndarray) -> Tensor:
        """Class counts of samples begin … end - 1 of a stream for the images ``rows``, (N, K)."""
        device = self.inputs.device
        whole = len(rows) == len(self.inputs)
        chosen = torch.as_tensor(rows, device=device)
        inputs = self.inputs if whole else self.inputs[chosen]
        mask = self.mask if whole or self.mask is None else self.mask[chosen]
        counts: Tensor | None = None
        with attack_mode(self.network, device.type), torch.inference_mode():
            for start in range(begin, end, self.chunk):
                copies = min(self.chunk, end - start)
                noise = self._noise(stream, start // self.chunk, rows)[:copies]
                noise = noise if mask is None else noise * mask
                logits = self.logits((inputs + noise).flatten(0, 1))
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
        shared = self.smoothing.share_noise
        parts = []
        for key in [-1] if shared else [self.keys[row] for row in rows]:
            source = generator(
                self.smoothing.seed, f'randomized_smoothing/{stream}', key, chunk, device=device
            )
            parts.append(torch.randn((self.chunk, *shape), generator=source, device=device))
        noise = parts[0][:, None] if shared else torch.stack(parts, 1)
        return noise.mul_(self.scale)


def certify_in_parts(
    count: int, smoothing: Smoothing, sampler: Callable[[slice], NoiseSampler]
) -> tuple[np.ndarray, np.ndarray]:
    """Certify ``count`` images, ``smoothing.images`` at a time.

    Args:
        count: >= 1.
        smoothing: The settings.
        sampler: Gives the sampler of some of the images.

    Returns:
        ``(prediction, radius)``, int64 and float64 (count,); -1 and 0 where it abstains.
    """
    found = [
        sampler(slice(start, start + smoothing.images))
        .sample()
        .certify(smoothing.sigma, smoothing.method)
        for start in range(0, count, smoothing.images)
    ]
    prediction, radius = zip(*found, strict=True)
    return np.concatenate(prediction), np.concatenate(radius)
