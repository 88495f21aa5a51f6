"""Mixed and parallel MAT around any MMPretrain classifier."""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import ModuleList
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.registry import MODELS as HOST_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmext.attacks.adversarial import (
    PixelSpace,
    attack_labels,
    attack_mode,
    content_mask,
    logits_fn,
)
from mmext.attacks.loss_draws import LossDraws
from mmext.registry import MODELS

from .functional import (
    COMBINE,
    attack_function,
    check_strengths,
    combine_scores,
    draw_strengths,
    mixed_loss,
    normalised_weights,
)

STRUCTURES = ('mixed', 'parallel')
MIXES = ('expand', 'sample')


@MODELS.register_module()
class MATClassifier(BaseClassifier):
    """Train a classifier on adversarial examples of several strengths (arXiv 1705.09764).

    - ``structure='mixed'``: one network learns clean examples and those of every strength.
    - ``structure='parallel'``: one network per strength, each learns clean examples and those of
      its strength; their outputs are combined. Attacks in training see the single network.

    Attacks run in eval mode and full precision on the pixels before normalisation, never on
    padding, and leave everything as it was. Random draws come from
    :class:`mmext.attacks.loss_draws.LossDraws`: ranks differ, and resume is exact.

    Args:
        classifier: Config of any MMPretrain classifier that gives logits.
        strengths: Perturbation levels in raw units, rising, > 0: 8 is 8/255 for images of range
            (0, 255). The strengths of the paper are not known.
        structure: 'mixed' or 'parallel' (the paper's two).
        attack: See :func:`.functional.attack_function` (ours).
        mix: 'expand': each image at every strength, the literal reading; 'sample': each image at
            one strength drawn by ``weights``, at the cost of training with a single one (ours).
        weights: Of clean and of each strength, >= 0, divided by their sum; with 'parallel' two,
            clean and adversarial. Default: equal (ours).
        combine: Of 'parallel': 'mean_prob', 'vote' or 'fusion', a linear layer over the logits of
            all networks, trained along on detached logits (ours). Attacks on a 'vote' follow the
            gradient of 'mean_prob', as votes have none.
        num_classes: Of 'fusion', where neither head nor data preprocessor tells it.
        bounds: Range of the raw images.
        data_preprocessor: For the classifier, unless that has its own. MMEngine's Runner passes
            the ``data_preprocessor`` of a config here.

    Raises:
        ValueError: An argument is out of range.

    Cost, in passes of the batch with K strengths and an attack of k steps: mixed 'expand'
    K (k + 1) + 1, mixed 'sample' at most k + 1, parallel K times that of one network; 'fusion' K
    forward passes more. Memory: 'expand' holds K + 1 graphs, parallel K networks.

    Example:
        >>> model = dict(type='mmext.MATClassifier', strengths=[2, 4, 8],
        ...              attack=dict(type='PGD', steps=7),
        ...              classifier=dict(type='ImageClassifier', backbone=..., head=...))
    """

    def __init__(
        self,
        classifier: dict,
        strengths: Sequence[float],
        structure: str = 'mixed',
        attack: Mapping[str, Any] | None = None,
        mix: str = 'expand',
        weights: Sequence[float] | None = None,
        combine: str = 'mean_prob',
        num_classes: int | None = None,
        bounds: tuple[float, float] = (0, 255),
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        for name, value, known in (
            ('structure', structure, STRUCTURES),
            ('mix', mix, MIXES),
            ('combine', combine, COMBINE),
        ):
            if value not in known:
                raise ValueError(f'{name}={value!r} must be one of {", ".join(known)}')
        check_strengths(strengths, bounds)
        settings = dict(classifier)
        if data_preprocessor is not None:
            settings.setdefault('data_preprocessor', data_preprocessor)
        count = len(strengths) if structure == 'parallel' else 1
        networks = [HOST_MODELS.build(copy.deepcopy(settings)) for _ in range(count)]
        super().__init__(data_preprocessor=networks[0].data_preprocessor)
        self.networks = ModuleList(networks)
        self._checked = False
        # Two for each network, and one for the fusion layer.
        self._draws = LossDraws('mat', 2 * count + 1)
        self.strengths = [float(value) for value in strengths]
        self.structure = structure
        self.mix = mix
        self.combine = combine
        self.bounds = bounds
        self.attack = attack_function(attack or dict(type='FGSM'))
        #: Strengths that each network learns, clean first.
        self.levels = (
            [[0.0, value] for value in self.strengths]
            if structure == 'parallel'
            else [[0.0, *self.strengths]]
        )
        self.weights = normalised_weights(weights, len(self.levels[0]))
        self.fusion: nn.Linear | None = None
        if structure == 'parallel' and combine == 'fusion':
            classes = num_classes or _num_classes(networks[0])
            self.fusion = nn.Linear(count * classes, classes)
            with torch.no_grad():
                # Starts as the mean of the logits.
                self.fusion.weight.copy_(torch.eye(classes).repeat(1, count) / count)
                self.fusion.bias.zero_()
        self._register_load_state_dict_pre_hook(self._accept_bare_classifier)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Dispatch to :meth:`logits` ('tensor'), :meth:`predict` or :meth:`loss`.

        Raises:
            ValueError: Unknown ``mode``.
        """
        if mode == 'tensor':
            return self.logits(inputs)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        raise ValueError(f"mode={mode!r} is unknown; choose 'tensor', 'predict' or 'loss'")

    def extract_feat(self, inputs: Tensor, **kwargs: Any) -> Any:
        """Features of the first network."""
        return self.networks[0].extract_feat(inputs, **kwargs)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter in its network, for MMPretrain's layer-wise learning rates.

        The fusion layer is as deep as a head.
        """
        name = re.sub(r'^networks\.\d+\.', '', param_name.removeprefix(prefix))
        return self.networks[0].get_layer_depth(name)

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits that an attack on the whole model follows, (N, K).

        Those of the network or the fusion layer; else logarithms of the mean probabilities.
        """
        found = [network(inputs, mode='tensor') for network in self.networks]
        if self.structure == 'mixed':
            return found[0]
        if self.fusion is not None:
            return self.fusion(torch.cat(found, 1))
        return torch.stack(found).log_softmax(2).logsumexp(0) - math.log(len(found))

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any
    ) -> list[DataSample]:
        """Predict with the network, or with all of them combined.

        Args:
            inputs: Normalised images, (N, C, H, W).
            data_samples: N samples or None.
            **kwargs: For the network's own ``predict``; only 'mixed'.

        Returns:
            N samples with ``pred_score`` (K,) and ``pred_label``.
        """
        if self.structure == 'mixed':
            return self.networks[0].predict(inputs, data_samples, **kwargs)
        if self.fusion is not None:
            scores = self.logits(inputs).softmax(1)
        else:
            found = torch.stack([network(inputs, mode='tensor') for network in self.networks])
            scores = combine_scores(found, self.combine)
        samples = [DataSample() for _ in inputs] if data_samples is None else data_samples
        for sample, score in zip(samples, scores, strict=True):
            sample.set_pred_score(score).set_pred_label(score.argmax(0, keepdim=True))
        return samples

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Loss on clean and adversarial examples.

        Args:
            inputs: Normalised images, (N, C, H, W).
            data_samples: N samples with a label each.

        Returns:
            Losses of the classifier's head, weighted over the strengths (``net<i>.`` before the
            names with 'parallel', whose losses are summed: each network trains as if alone),
            ``loss_fusion`` where there is one, and to watch, with 'expand',
            ``mat/risk_<strength>``.
        """
        labels = attack_labels(data_samples, inputs.device)
        mask = content_mask(inputs, data_samples)
        losses: dict[str, Tensor] = {}
        variants = []
        self._draws.begin()
        for index, (network, levels) in enumerate(zip(self.networks, self.levels, strict=True)):
            prefix = f'net{index}.' if self.structure == 'parallel' else ''
            if self.mix == 'sample':
                draws = self._draws.generator(2 * index)
                eps = draw_strengths(len(inputs), levels, self.weights, draws)
                images = [self._attack(network, inputs, labels, mask, eps.to(inputs.device), index)]
                found = network.loss(images[0], data_samples)
            else:
                images = [
                    self._attack(
                        network, inputs, labels, mask, inputs.new_full((len(inputs),), level), index
                    )
                    for level in levels
                ]
                parts = [network.loss(variant, data_samples) for variant in images]
                found = _weighted(parts, self.weights)
                for level, part in zip(levels, parts, strict=True):
                    losses[f'mat/{prefix}risk_{level:g}'] = sum(
                        value.detach().mean() for key, value in part.items() if 'loss' in key
                    )
            losses.update({f'{prefix}{key}': value for key, value in found.items()})
            variants += images
        if self.fusion is not None:
            losses['loss_fusion'] = self._fusion_loss(variants, labels)
        return losses

    def _fusion_loss(self, variants: list[Tensor], labels: Tensor) -> Tensor:
        """Cross-entropy of the fusion layer; each sample as one of the networks saw it."""
        assert self.fusion is not None  # for type checkers
        generator = self._draws.generator(2 * len(self.networks))
        chosen = torch.randint(len(variants), (len(labels),), generator=generator)
        rows = torch.arange(len(labels))
        images = torch.stack(variants)[chosen.to(labels.device), rows.to(labels.device)]
        with torch.no_grad(), attack_mode(self.networks, images.device.type):
            found = [network(images, mode='tensor').detach() for network in self.networks]
        return nn.functional.cross_entropy(self.fusion(torch.cat(found, 1)), labels)

    def _attack(
        self,
        network: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        mask: Tensor | None,
        strength: Tensor,
        index: int,
    ) -> Tensor:
        """Adversarial inputs, one strength in raw units per sample; 0 leaves a sample alone."""
        rows = (strength > 0).nonzero().squeeze(1)
        if not len(rows):
            return inputs
        space = PixelSpace.of(network, self.bounds)
        pixels = space.to_pixels(inputs[rows].detach().float())
        shown = None if mask is None else mask[rows]
        inside = pixels.clamp(0, 1)
        pixels = inside if shown is None else torch.where(shown, inside, pixels)
        generator = self._draws.generator(2 * index + 1, inputs.device)
        with attack_mode(network, inputs.device.type):
            moved = self.attack(
                logits_fn(network, self.bounds, check=not self._checked),
                pixels, labels[rows], strength[rows] / space.width, generator, shown,
            )  # fmt: skip
        self._checked = True
        moved = space.to_inputs(moved).to(inputs)
        attacked = inputs.clone()
        attacked[rows] = moved if shown is None else torch.where(shown, moved, inputs[rows])
        return attacked

    def _accept_bare_classifier(self, state_dict: dict, prefix: str, *_: Any) -> None:
        """Load the weights of a bare classifier into every network."""
        keys = [key for key in state_dict if key.startswith(prefix)]
        if any(key.startswith(f'{prefix}networks.') for key in keys):
            return
        for key in keys:
            value = state_dict.pop(key)
            for index in range(len(self.networks)):
                state_dict[f'{prefix}networks.{index}.{key.removeprefix(prefix)}'] = value


def _weighted(parts: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Tensor]:
    return {key: mixed_loss([part[key].mean() for part in parts], weights) for key in parts[0]}


def _num_classes(network: nn.Module) -> int:
    for owner in ('head', 'data_preprocessor', 'backbone'):
        found = getattr(getattr(network, owner, None), 'num_classes', None)
        if isinstance(found, int) and found > 0:
            return found
    raise ValueError("combine='fusion' needs num_classes: the classifier does not tell it")
