"""Test loop that attacks what it evaluates."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop
from torch import Tensor, nn

from mmext.attacks.adversarial import (
    PixelSpace,
    attack_labels,
    attack_mode,
    content_mask,
    logits_fn,
)
from mmext.attacks.gradient_attacks import expand, l2_norm
from mmext.engine import rng
from mmext.registry import LOOPS, TRANSFORMS

from .functional import ATTACKS, attack_function


@LOOPS.register_module()
class RobustnessTestLoop(TestLoop):
    """Predict clean images and each attack's at every strength; white-box.

    Every sample gets ``predicted_under``, a dict of condition -> class for
    ``mmext.RobustAccuracy``; its ``pred_label`` stays the clean prediction, for other metrics.

    Args:
        attacks: Of type 'FGSM' or 'PGD' (see :func:`.functional.attack_function`), at
            ``strengths``; or an attack of least norm such as ``dict(type='mmext.CWAttack', ...)``
            with a list ``eps`` of L2 distances in pixels of range [0, 1]: a sample counts as
            attacked where its adversarial image is that near.
        strengths: In raw units: 8 is 8/255 for images of range (0, 255).
        bounds: Range of the raw images.
        dataloader, evaluator, **kwargs: As for MMEngine's ``TestLoop``.

    Raises:
        ValueError: Unknown attack, or no strengths.

    Cost: for each strength, the attack's steps plus one forward pass.

    Example:
        >>> test_cfg = dict(type='mmext.RobustnessTestLoop', strengths=[8, 16, 32],
        ...     attacks=[dict(type='FGSM'), dict(type='PGD', steps=20),
        ...              dict(type='mmext.CWAttack', eps=[0.5, 1.0])])
        >>> test_evaluator = dict(type='mmext.RobustAccuracy')
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        attacks: Sequence[Mapping[str, Any]],
        strengths: Sequence[float] = (),
        bounds: tuple[float, float] = (0, 255),
        **kwargs: Any,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, **kwargs)
        if any(attack['type'] in ATTACKS for attack in attacks) and not strengths:
            raise ValueError('RobustnessTestLoop needs strengths for FGSM and PGD, e.g. [4, 8, 16]')
        self.strengths = list(strengths)
        self.bounds = bounds
        self._budgeted = {}
        self._minimum_norm = {}
        for attack in attacks:
            settings = dict(attack)
            if settings['type'] in ATTACKS:
                self._budgeted[_name(settings)] = attack_function(settings)
                continue
            eps = settings.pop('eps', None)
            if not eps:
                raise ValueError(f'attack {settings["type"]} needs eps, a list of L2 distances')
            self._minimum_norm[_name(settings)] = TRANSFORMS.build(settings), list(eps)

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Attack and predict one batch."""
        self.runner.call_hook('before_test_iter', batch_idx=idx, data_batch=data_batch)
        model = self.runner.model
        model = model.module if is_model_wrapper(model) else model
        data = model.data_preprocessor(data_batch, False)
        inputs, samples = data['inputs'], data['data_samples']
        predicted = {'clean': _labels(model.predict(inputs, samples))}
        labels, mask = attack_labels(samples, inputs.device), content_mask(inputs, samples)
        space = PixelSpace.of(model, self.bounds)
        inside = space.to_pixels(inputs).clamp(0, 1)
        pixels = inside if mask is None else torch.where(mask, inside, space.to_pixels(inputs))

        def predict(attacked: Tensor) -> list[int]:
            images = space.to_inputs(attacked)
            images = images if mask is None else torch.where(mask, images, inputs)
            return _labels(model.predict(images))

        for name, attack in self._budgeted.items():
            for strength in self.strengths:
                eps = pixels.new_full((len(pixels),), strength / space.width)
                generator = self._generator(idx, pixels.device)
                with attack_mode(model, pixels.device.type):
                    logits = logits_fn(model, self.bounds, check=idx == 0)
                    moved = attack(logits, pixels, labels, eps, generator, mask)
                predicted[f'{name}@{strength:g}'] = predict(moved)
        for name, (attack, distances) in self._minimum_norm.items():
            moved = self._nearest(attack, model, pixels, labels, mask)
            l2 = l2_norm(moved - pixels)
            for distance in distances:
                near = expand(l2 <= distance, pixels)
                predicted[f'{name}@{distance:g}'] = predict(torch.where(near, moved, pixels))
        for row, sample in enumerate(samples):
            told = {name: values[row] for name, values in predicted.items()}
            sample.set_field(told, 'predicted_under', dtype=dict)
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook(
            'after_test_iter', batch_idx=idx, data_batch=data_batch, outputs=samples
        )

    def _nearest(
        self, attack: Any, model: nn.Module, pixels: Tensor, labels: Tensor, mask: Tensor | None
    ) -> Tensor:
        if mask is not None:
            raise ValueError(
                'attacks of least norm need images without padding: resize them in the pipeline'
            )
        with attack_mode(model, pixels.device.type):
            return attack.perturb(model, pixels, labels)

    def _generator(self, idx: int, device: torch.device) -> torch.Generator:
        return rng.generator(self.runner.seed or 0, 'robustness', get_rank(), idx, device=device)


def _name(settings: Mapping[str, Any]) -> str:
    """'FGSM', 'PGD-20', 'CWAttack'."""
    short = settings['type'].rpartition('.')[2]
    return f'{short}-{settings.get("steps", 7)}' if short == 'PGD' else short


def _labels(samples: Sequence[Any]) -> list[int]:
    return [int(sample.pred_label) for sample in samples]
