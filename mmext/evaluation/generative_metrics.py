"""Quality of generated images as a metric of MMEngine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmext.registry import METRICS

from .extractors import build_extractor
from .generative import (
    frechet_distance,
    gaussian,
    inception_score,
    kernel_distance,
    precision_recall,
)

MEASURES = ('FID', 'IS', 'KID', 'PRC', 'accuracy')
GENERATORS = ('ema', 'orig')


@METRICS.register_module()
class GenerativeMetrics(BaseMetric):
    """FID, IS, KID, precision and recall, and the accuracy of class-conditional samples.

    The validation data are the real images; the model makes fakes of their classes
    (``mmext.CTFGAN`` in ``val_step``). With Inception features the names are the known ones; with a
    classifier that was trained on the real data they are ``FID-C`` and so on, with
    EfficientNet-Lite0 ``FID-EfficientNetLite0``, which compare with nothing else. All generators
    that the model reports ('ema', 'orig') are measured, and where it makes sense the real images.
    The output says how it was measured under ``protocol``: numbers of different protocols do not
    compare.

    Args:
        extractor: ``dict(type='inception', path=...)``, ``dict(type='classifier', config=...,
            checkpoint=...)`` with a classifier of MMPretrain, or
            ``dict(type='efficientnet_lite0')`` with the weights of the extra ``pretrained``.
        measures: Some of 'FID', 'IS', 'KID', 'PRC' (precision and recall) and 'accuracy': of the
            extractor on samples of a class; only with a classifier.
        split: Name of the real images in the protocol.
        splits: Parts for IS.
        k: Neighbour for precision and recall.
        collect_device: Of MMEngine's BaseMetric.
        prefix: Before all names.

    Raises:
        FileNotFoundError: The file of the extractor does not exist.
        ImportError: The weights of EfficientNet-Lite0 are not installed.
        ValueError: An argument is out of its range.

    Cost: the extractor on all images; FID a decomposition of d x d matrices on the CPU; PRC and KID
    n x n distances.

    Example:
        >>> val_evaluator = dict(type='mmext.GenerativeMetrics', split='test', extractor=dict(
        ...     type='classifier', config='mmext::ctf_gan/extractor_digits.py',
        ...     checkpoint='work_dirs/extractor_digits/epoch_40.pth'))
    """

    default_prefix = 'gan'

    def __init__(
        self,
        extractor: dict,
        measures: Sequence[str] = ('FID', 'IS', 'accuracy'),
        split: str = 'val',
        splits: int = 1,
        k: int = 3,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        unknown = [name for name in measures if name not in MEASURES]
        if unknown or not measures:
            raise ValueError(f'measures {unknown} must be some of {", ".join(MEASURES)}')
        self.extractor = build_extractor(extractor)
        if 'accuracy' in measures and not self.extractor.knows_classes:
            raise ValueError(
                f"the classes of {extractor['type']} are not those of the data: leave 'accuracy' "
                "out of measures or use extractor=dict(type='classifier', ...)"
            )
        self.measures = tuple(measures)
        self.split = split
        self.splits = splits
        self.k = k

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Extract features of the real images and of the fakes of a batch."""
        if any('gt_img' not in sample for sample in data_samples):
            raise ValueError(
                'samples have no gt_img: GenerativeMetrics needs a model that makes fakes for real '
                'images, as mmext.CTFGAN does, and real images in the val_dataloader'
            )
        found: list[dict[str, Any]] = [{} for _ in data_samples]
        for name, images in self._images(data_samples).items():
            repeats = len(images) // len(data_samples)
            features, probabilities = (
                part.float().cpu().numpy() for part in self.extractor(images)
            )
            for row, result in enumerate(found):
                mine = slice(row * repeats, (row + 1) * repeats)
                result[name] = features[mine], probabilities[mine]
        for sample, result in zip(data_samples, found, strict=True):
            if 'gt_label' in sample:
                result['label'] = int(sample['gt_label'])
        self.results += found

    def _images(self, samples: Sequence[dict]) -> dict[str, torch.Tensor]:
        """``real`` and each generator -> images (k N, C, H, W)."""
        images = {'real': torch.stack([sample['gt_img'] for sample in samples])}
        for name in GENERATORS:
            if name in samples[0]:
                fakes = torch.stack([sample[name]['fake_img'] for sample in samples])
                images[name] = fakes.reshape(-1, *fakes.shape[-3:])
        return images

    def compute_metrics(self, results: list) -> dict[str, Any]:
        """Measure.

        Returns:
            ``<generator>/<measure>``, ``real/...`` for IS and accuracy, and ``protocol``.

        Raises:
            ValueError: There are too few images.
        """
        names = [name for name in ('real', *GENERATORS) if name in results[0]]
        features = {name: np.concatenate([r[name][0] for r in results]) for name in names}
        classes = {name: np.concatenate([r[name][1] for r in results]) for name in names}
        labels = np.array([result.get('label', -1) for result in results])
        told: dict[str, Any] = {}
        for name in names:
            for measure in self.measures:
                if name == 'real' and measure in ('FID', 'KID', 'PRC'):
                    continue
                told |= {
                    f'{name}/{key}{self.extractor.suffix if key != "accuracy" else ""}': value
                    for key, value in self._measure(
                        measure, features['real'], features[name], classes[name], labels
                    ).items()
                }
        n_real, size = features['real'].shape
        n_fake = max(len(features[name]) for name in names)
        if 'FID' in self.measures and min(n_real, n_fake) <= size:
            print_log(
                f'{min(n_real, n_fake)} images for {size} features: the covariance is singular and '
                'the Frechet distance too high; compare with equal numbers of images only',
                logger='current',
                level=30,
            )
        told['protocol'] = (
            f'n_real={n_real} ({self.split}), n_fake={n_fake}, {self.extractor.protocol}, '
            f'features={size}, IS splits={self.splits}, batch norm by running statistics'
        )
        return told

    def _measure(
        self,
        measure: str,
        real: np.ndarray,
        fake: np.ndarray,
        probabilities: np.ndarray,
        labels: np.ndarray,
    ) -> dict[str, float]:
        if measure == 'FID':
            return {'FID': frechet_distance(*gaussian(real), *gaussian(fake))}
        if measure == 'IS':
            return {'IS': inception_score(probabilities, self.splits)[0]}
        if measure == 'KID':
            return {'KID': kernel_distance(real, fake)}
        if measure == 'PRC':
            precision, recall = precision_recall(real, fake, self.k)
            return {'precision': precision, 'recall': recall}
        if (labels < 0).any():
            raise ValueError("samples have no gt_label: leave 'accuracy' out of measures")
        if labels.max() >= probabilities.shape[1]:
            raise ValueError(
                f'the extractor knows {probabilities.shape[1]} classes, the images have label '
                f"{labels.max()}: leave 'accuracy' out of measures or use a classifier of the data"
            )
        wanted = labels.repeat(len(probabilities) // len(labels))
        return {'accuracy': 100 * float((probabilities.argmax(1) == wanted).mean())}
