"""Validation and test loops that attack what they evaluate."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop, ValLoop
from torch import Tensor, nn

from mmext.attacks.adversarial import (
    PixelSpace,
    attack_labels,
    attack_mode,
    content_mask,
    logits_fn,
)
from mmext.attacks.gradient_attacks import expand, l2_norm
from mmext.attacks.standard import PARTS, check_gradients
from mmext.attacks.suite import IN_BALL, attack_batch, sample_generators
from mmext.registry import LOOPS, TRANSFORMS


class _Attacks:
    """Attacks of a loop, each at its strengths.

    Args:
        attacks, strengths, bounds: As for :class:`RobustnessTestLoop`.
    """

    def __init__(
        self,
        attacks: Sequence[Mapping[str, Any]],
        strengths: Sequence[float],
        bounds: tuple[float, float],
    ) -> None:
        self.strengths = sorted(strengths)
        self.bounds = bounds
        self._in_ball: dict[str, tuple[str, dict]] = {}
        self._least_norm: dict[str, tuple[Any, list[float]]] = {}
        for attack in attacks:
            settings = dict(attack)
            kind = settings.pop('type')
            name = kind.lower().replace('-', '_')
            if name in IN_BALL:
                if name == 'pgd':
                    settings.setdefault('steps', 7)
                    kind = f'{kind}-{settings["steps"]}'
                self._in_ball[kind] = name, settings
                continue
            eps = settings.pop('eps', None)
            if not eps:
                raise ValueError(f'attack {kind} needs eps, a list of L2 distances')
            built = TRANSFORMS.build({'type': kind, **settings})
            self._least_norm[kind.rpartition('.')[2]] = built, list(eps)
        if self._in_ball and not strengths:
            told = ', '.join(self._in_ball)
            raise ValueError(f'{told} needs strengths, e.g. [4, 8, 16]')

    def predict(self, runner: Any, idx: int, data_batch: Any) -> list:
        """Predict a batch under all conditions; returns its data samples."""
        model = runner.model
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

        with attack_mode(model, pixels.device.type):
            logits = logits_fn(model, self.bounds, check=idx == 0)
            check = check_gradients(logits, pixels, labels)
        signs = [{'random': check.random, 'zero_gradient': zero} for zero in check.zero.tolist()]
        for kind, (name, settings) in self._in_ball.items():
            with attack_mode(model, pixels.device.type):
                found = attack_batch(
                    name, logits, pixels, labels, mask=mask,
                    eps=[strength / space.width for strength in self.strengths],
                    generator=sample_generators(runner.seed or 0, _indices(samples, idx)),
                    **settings,
                )  # fmt: skip
            for strength, result in zip(self.strengths, found, strict=True):
                predicted[f'{kind}@{strength:g}'] = predict(result.x_adv)
            if found[-1].by is not None:
                for sign, by, hit in zip(signs, found[-1].by, found[-1].success, strict=True):
                    sign |= {'by': PARTS[by] if by >= 0 else None, 'stands': not hit}
        for name, (attack, distances) in self._least_norm.items():
            moved = self._nearest(attack, model, pixels, labels, mask)
            l2 = l2_norm(moved - pixels)
            for distance in distances:
                near = expand(l2 <= distance, pixels)
                predicted[f'{name}@{distance:g}'] = predict(torch.where(near, moved, pixels))
        for row, sample in enumerate(samples):
            told = {name: values[row] for name, values in predicted.items()}
            sample.set_field(told, 'predicted_under', dtype=dict)
            sample.set_field(signs[row], 'gradient_signs', dtype=dict)
        return samples

    def _nearest(
        self, attack: Any, model: nn.Module, pixels: Tensor, labels: Tensor, mask: Tensor | None
    ) -> Tensor:
        if mask is not None:
            raise ValueError(
                'attacks of least norm need images without padding: resize them in the pipeline'
            )
        with attack_mode(model, pixels.device.type):
            return attack.perturb(model, pixels, labels)


class _RobustnessLoop:
    """What both loops share; :class:`RobustnessTestLoop` has the arguments."""

    #: 'test' or 'val', in the names of the hooks' methods.
    stage: str

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
        super().__init__(runner, dataloader, evaluator, **kwargs)  # type: ignore[call-arg]
        self.attacks = _Attacks(attacks, strengths, bounds)

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Attack and predict one batch."""
        runner: Any = self.runner  # type: ignore[attr-defined]
        runner.call_hook(f'before_{self.stage}_iter', batch_idx=idx, data_batch=data_batch)
        samples = self.attacks.predict(runner, idx, data_batch)
        self.evaluator.process(  # type: ignore[attr-defined]
            data_samples=samples, data_batch=data_batch
        )
        runner.call_hook(
            f'after_{self.stage}_iter', batch_idx=idx, data_batch=data_batch, outputs=samples
        )


@LOOPS.register_module()
class RobustnessTestLoop(_RobustnessLoop, TestLoop):
    """Predict clean images and each attack's at every strength; white-box.

    Every sample gets ``predicted_under``, a dict of condition -> class for
    ``mmext.RobustAccuracy``; its ``pred_label`` stays the clean prediction, for other metrics.
    Strengths are nested: what falls at one is not attacked at larger ones. Draws depend on seed and
    sample alone, so several ranks find what one finds.

    Args:
        attacks: Of type 'FGSM', 'PGD', 'APGD-CE', 'APGD-T', 'Square' or 'Standard' (all of
            :mod:`.standard`), at ``strengths`` and with the options of the attack, such as
            ``norm``, ``steps`` and ``restarts``; or an attack of least norm such as
            ``dict(type='mmext.CWAttack', ...)`` with a list ``eps`` of L2 distances in pixels of
            range [0, 1]: a sample counts as attacked where its adversarial image is that near.
        strengths: In raw units: 8 is 8/255 for images of range (0, 255).
        bounds: Range of the raw images.
        dataloader, evaluator, **kwargs: As for MMEngine's ``TestLoop``.

    Raises:
        ValueError: Unknown attack, or no strengths.

    Cost: for each strength, the attack's steps plus one forward pass; three more for each batch.

    Example:
        >>> test_cfg = dict(type='mmext.RobustnessTestLoop', strengths=[8, 16, 32],
        ...     attacks=[dict(type='FGSM'), dict(type='PGD', steps=20), dict(type='Standard'),
        ...              dict(type='mmext.CWAttack', eps=[0.5, 1.0])])
        >>> test_evaluator = dict(type='mmext.RobustAccuracy')
    """

    stage = 'test'


@LOOPS.register_module()
class RobustnessValLoop(_RobustnessLoop, ValLoop):
    """Validate under attack, so that the checkpoint of the best robust accuracy can be kept.

    Arguments as for :class:`RobustnessTestLoop`; a few steps at one strength serve to choose.

    Example:
        >>> val_cfg = dict(type='mmext.RobustnessValLoop', strengths=[8],
        ...     attacks=[dict(type='PGD', steps=10)])
        >>> val_evaluator = dict(type='mmext.RobustAccuracy')
        >>> default_hooks = dict(checkpoint=dict(type='CheckpointHook', rule='greater',
        ...     save_best='robust/PGD-10@8'))
    """

    stage = 'val'


def _indices(samples: Sequence[Any], idx: int) -> list[int]:
    """Places of the samples in the data set; where unknown, they count from the batch on."""
    return [
        int(sample.get('sample_idx', idx * len(samples) + row))
        for row, sample in enumerate(samples)
    ]


def _labels(samples: Sequence[Any]) -> list[int]:
    return [int(sample.pred_label) for sample in samples]
