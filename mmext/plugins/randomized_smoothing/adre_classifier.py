"""Training of a base classifier for smoothing, standard and adversarial."""

from collections.abc import Mapping
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmext.attacks.adversarial import (
    attack_labels,
    attack_mode,
    check_logits,
    content_mask,
    logits_fn,
)
from mmext.attacks.loss_draws import LossDraws
from mmext.registry import MODELS

from .functional import adre_terms, smooth_adv, smoothed_log_probs
from .wrapper import ClassifierWrapper


@MODELS.register_module()
class ADREClassifier(ClassifierWrapper):
    """Train a classifier on noisy images with the ADRE regulariser (arXiv 2002.07246).

    The loss is ``R_per + adre_weight * R_adre``, see
    :func:`mmext.plugins.randomized_smoothing.functional.adre_terms`; the loss module of the
    classifier's head is not used. Noise is added to the pixels before normalisation and not to
    padding, and nothing is clipped; it is drawn by :class:`mmext.attacks.loss_draws.LossDraws`.
    With ``adre_weight=0`` this is training on Gaussian noise (arXiv 1902.02918), or SmoothAdv with
    ``adversarial``.

    The prediction is the soft smoothed classifier from ``num_noise`` copies under fixed noise: an
    estimate to watch, not a certificate. ``mmext.SmoothedClassifier`` certifies.

    Args:
        classifier: Config of any MMPretrain classifier that gives logits.
        sigma: Standard deviation of the noise in pixels of range [0, 1], > 0.
        num_noise: Noisy copies of each image (m), >= 1. 8 is a third party's value.
        adre_weight: Weight of the regulariser (lambda), >= 0. 0.1 is a third party's value.
        adversarial: None, or ``dict(eps=..., steps=...)``: the risk at images attacked within an
            L2 ball of ``eps`` pixels by :func:`smooth_adv`, under the same noise.
        floor: Least log probability the regulariser asks for (ours).
        data_preprocessor, bounds: See :class:`ClassifierWrapper`.

    Raises:
        ValueError: An argument is out of its range, or the classifier mixes images (Mixup, CutMix):
            the runner-up class needs one label per image.

    Cost: ``num_noise`` forward and backward passes of the batch in time and memory; with
    ``adversarial`` another ``steps * num_noise``, one after another.

    Example:
        >>> model = dict(type='mmext.ADREClassifier', sigma=0.5,
        ...              classifier=dict(type='ImageClassifier', backbone=..., head=...))
    """

    def __init__(
        self,
        classifier: dict | nn.Module,
        sigma: float,
        num_noise: int = 8,
        adre_weight: float = 0.1,
        adversarial: Mapping[str, Any] | None = None,
        floor: float = -10.0,
        data_preprocessor: dict | nn.Module | None = None,
        bounds: tuple[float, float] = (0, 255),
    ) -> None:
        super().__init__(classifier, sigma, data_preprocessor, bounds)
        if num_noise < 1:
            raise ValueError(f'num_noise={num_noise} must be at least 1')
        if adre_weight < 0:
            raise ValueError(f'adre_weight={adre_weight} must not be negative')
        if floor >= 0:
            raise ValueError(f'floor={floor} is a log probability and must be negative')
        if adversarial is not None:
            if set(adversarial) != {'eps', 'steps'}:
                raise ValueError(
                    f'adversarial={dict(adversarial)} must be dict(eps=..., steps=...)'
                )
            if not adversarial['eps'] > 0 or adversarial['steps'] < 1:
                raise ValueError(
                    f'adversarial: eps={adversarial["eps"]} must be positive and '
                    f'steps={adversarial["steps"]} at least 1'
                )
        if getattr(self.data_preprocessor, 'batch_augments', None) is not None:
            raise ValueError(
                'classifier: batch augments (Mixup, CutMix) mix labels, and the runner-up class '
                'needs one label per image; remove train_cfg.augments from the classifier'
            )
        self.num_noise = num_noise
        self.adre_weight = adre_weight
        self.adversarial = dict(adversarial or {})
        self.floor = floor
        self._checked = False
        self._draws = LossDraws('randomized_smoothing')

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Compute the regularised risk of a batch.

        Args:
            inputs: Normalised images, (N, C, H, W).
            data_samples: N samples with one ``gt_label`` each.

        Returns:
            ``loss_perturbed`` (R_per), ``loss_adre`` (weighted) and, to watch,
            ``smoothed/accuracy`` (percent) and ``smoothed/runner_up`` (R_adre).
        """
        labels = attack_labels(data_samples, inputs.device)
        mask = content_mask(inputs, data_samples)
        self._draws.begin()
        noise = self._noise(inputs, mask, self._draws.generator(device=inputs.device))
        pixels = self.space.to_pixels(inputs.float())
        if self.adversarial:
            pixels = self._attack(pixels, labels, noise, mask)
        logits = self._noisy_logits(pixels, noise)
        if not self._checked:
            _check(logits.flatten(0, 1), labels)
            self._checked = True
        perturbed, adre = adre_terms(logits, labels, self.floor)
        with torch.no_grad():
            correct = smoothed_log_probs(logits).argmax(1) == labels
        return {
            'loss_perturbed': perturbed,
            'loss_adre': self.adre_weight * adre,
            'smoothed/accuracy': 100 * correct.float().mean(),
            'smoothed/runner_up': adre.detach(),
        }

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, **_: Any
    ) -> list[DataSample]:
        """Estimate the soft smoothed classifier; fixed noise, so that epochs compare.

        Args:
            inputs: Normalised images, (N, C, H, W).
            data_samples: N samples or None.

        Returns:
            N samples with ``pred_score`` (K,) and ``pred_label``.
        """
        generator = torch.Generator(inputs.device).manual_seed(0)
        noise = self._noise(inputs, content_mask(inputs, data_samples), generator)
        logits = self._noisy_logits(self.space.to_pixels(inputs.float()), noise)
        scores = smoothed_log_probs(logits).exp()
        samples = [DataSample() for _ in inputs] if data_samples is None else data_samples
        for sample, score in zip(samples, scores, strict=True):
            sample.set_pred_score(score).set_pred_label(score.argmax(0, keepdim=True))
        return samples

    def _noise(self, inputs: Tensor, mask: Tensor | None, generator: torch.Generator) -> Tensor:
        noise = self.sigma * torch.randn(
            (self.num_noise, *inputs.shape), generator=generator, device=inputs.device
        )
        return noise if mask is None else noise * mask

    def _noisy_logits(self, pixels: Tensor, noise: Tensor) -> Tensor:
        logits = logits_fn(self.classifier, self.bounds, check=False)
        return logits((pixels + noise).flatten(0, 1)).unflatten(0, (len(noise), len(pixels)))

    def _attack(self, pixels: Tensor, labels: Tensor, noise: Tensor, mask: Tensor | None) -> Tensor:
        logits = logits_fn(self.classifier, self.bounds, check=False)
        if mask is None:
            run = logits
        else:
            shown, fixed = (part.repeat(len(noise), 1, 1, 1) for part in (mask, pixels))

            def run(noisy: Tensor) -> Tensor:
                # Without a gradient on the padding, the attack leaves it alone.
                return logits(torch.where(shown, noisy, fixed))

        with attack_mode(self.classifier, pixels.device.type):
            found = smooth_adv(run, pixels, labels, noise, **self.adversarial)
        # Padding may lie outside the box that the attack keeps to.
        return found if mask is None else torch.where(mask, found, pixels)


def _check(logits: Tensor, labels: Tensor) -> None:
    check_logits(logits)
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(
            f'a label is {int(labels.max())}, but the classifier has {logits.shape[1]} classes; '
            'set num_classes of its head'
        )
