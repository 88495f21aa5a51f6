"""What attacks in MMPretrain's data preprocessor have in common."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from mmext.attacks.adversarial import PixelSpace, attack_mode
from mmext.engine import rng


class BatchAttack:
    """Base of batch augments that attack the model in training.

    ``mmext.AttackModelHook`` binds the model, weakly. Subclasses define ``stream``, the name of
    their random stream, and :meth:`perturb`. Also callable with one dict of a pipeline.

    Args:
        bounds: Range of the raw images, before normalisation.
    """

    stream = ''

    def __init__(self, bounds: tuple[float, float] = (0, 255)) -> None:
        self.bounds = bounds
        self.iteration = 0
        self._calls = (0, 0)
        self._seed = 0
        self._rank = 0
        self._model: Any = None

    def bind_model(self, model: nn.Module, seed: int = 0, rank: int = 0) -> None:
        """Keep a weak reference to the unwrapped model, and what random draws depend on.

        Raises:
            ValueError: The preprocessor pads, and here padding cannot be told from the image.
        """
        preprocessor = getattr(model, 'data_preprocessor', None)
        if getattr(preprocessor, 'pad_size_divisor', 1) > 1:
            raise ValueError(
                f'{type(self).__name__} in a data preprocessor cannot tell padding from the image: '
                'set pad_size_divisor=1, or use mmext.MATClassifier'
            )
        self._model = weakref.ref(model)
        self._seed, self._rank = seed, rank

    def generator(self, device: torch.device | str = 'cpu') -> torch.Generator:
        """Next generator: a function of seed, rank, iteration and how many were asked for in it."""
        iteration, calls = self._calls
        calls = calls + 1 if iteration == self.iteration else 0
        self._calls = (self.iteration, calls)
        return rng.generator(self._seed, self.stream, self._rank, self.iteration, calls, device)

    def perturb(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial pixels (N, C, H, W) in [0, 1]."""
        raise NotImplementedError

    def transform(self, results: dict) -> dict:
        """Serve as a pipeline transform."""
        raise ValueError(
            f'{type(self).__name__} attacks the model in training and has no place in a pipeline; '
            'put it into model.data_preprocessor.batch_augments'
        )

    def __call__(self, inputs: Any, scores: Tensor | None = None) -> Any:
        """Attack a normalised batch (batch augment), or serve a pipeline.

        Args:
            inputs: Normalised images (N, C, H, W), or the results of a pipeline.
            scores: Labels as scores (N, K); the attack leads away from the likeliest class.

        Returns:
            (images, scores), or results.

        Raises:
            ValueError: No model is bound.
        """
        if isinstance(inputs, dict):
            return self.transform(inputs)
        model = self._model() if self._model is not None else None
        if model is None:
            raise ValueError(
                f'{type(self).__name__} has no model to attack: add '
                "custom_hooks=[dict(type='mmext.AttackModelHook')]"
            )
        assert scores is not None  # for type checkers: MMPretrain always gives them
        space = PixelSpace.of(model, self.bounds)
        pixels = space.to_pixels(inputs.detach().float()).clamp(0, 1)
        with attack_mode(model, inputs.device.type):
            attacked = self.perturb(model, pixels, scores.argmax(1))
        return space.to_inputs(attacked).to(inputs), scores.float()

    def __getstate__(self) -> dict:
        # A weak reference has no pickle; the hook binds again.
        return {**self.__dict__, '_model': None}

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.__dict__.items() if not k.startswith('_')}
        return f'{type(self).__name__}({", ".join(f"{k}={v}" for k, v in shown.items())})'
