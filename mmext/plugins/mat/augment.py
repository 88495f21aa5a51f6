"""Mixed MAT as a batch augment, for a config that keeps its own classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmext.attacks.adversarial import logits_fn
from mmext.attacks.batch_attack import BatchAttack
from mmext.registry import TRANSFORMS

from .functional import (
    attack_function,
    attack_rows,
    check_strengths,
    draw_strengths,
    normalised_weights,
)


@TRANSFORMS.register_module()
class MATAugment(BatchAttack):
    """Perturb each image of a batch with a strength drawn from a list (arXiv 1705.09764).

    The batch augment form of ``mmext.MATClassifier(mix='sample')``: it goes into
    ``data_preprocessor.batch_augments`` of any classifier config, bound to the model in training by
    ``mmext.AttackModelHook``, see the example. MMPretrain makes labels one-hot for batch augments.

    Args:
        strengths: In raw units, rising, > 0.
        attack: See :func:`.functional.attack_function`.
        weights: Probabilities of clean and of each strength, divided by their sum; default equal.
        bounds: Range of the raw images.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> model = dict(data_preprocessor=dict(batch_augments=dict(augments=dict(
        ...     type='mmext.MATAugment', strengths=[2, 4, 8]))))
        >>> custom_hooks = [dict(type='mmext.AttackModelHook')]

    Cost: as many further forward and backward passes of the batch as the attack has steps.
    """

    stream = 'mat'

    def __init__(
        self,
        strengths: Sequence[float],
        attack: Mapping[str, Any] | None = None,
        weights: Sequence[float] | None = None,
        bounds: tuple[float, float] = (0, 255),
    ) -> None:
        super().__init__(bounds)
        check_strengths(strengths, bounds)
        self.strengths = [0.0, *map(float, strengths)]
        self.weights = normalised_weights(weights, len(self.strengths))
        self.settings = dict(attack or dict(type='FGSM'))
        attack_function(self.settings)

    def perturb(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """Attack a batch, pixels (N, C, H, W) in [0, 1]."""
        eps = draw_strengths(len(labels), self.strengths, self.weights, self.generator())
        eps = eps.to(pixels)
        eps = eps / (self.bounds[1] - self.bounds[0])
        return attack_rows(
            attack_function(self.settings),
            logits_fn(model, self.bounds),
            pixels, labels, eps, self.generator(pixels.device),
        )  # fmt: skip
