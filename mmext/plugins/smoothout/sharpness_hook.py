"""Sharpness of the loss around the weights, during training."""

from itertools import islice

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor

from mmext.engine import rng, shards
from mmext.registry import HOOKS

from .functional import ADAPTS, expected_sharpness, keskar_sharpness
from .perturbation import select_parameters


@HOOKS.register_module()
class SharpnessHook(Hook):
    """Measure both sharpnesses of the validation loss every few epochs.

    Logs ``sharpness/expected`` (``E_n L(w + n) - L(w)``) and ``sharpness/keskar`` (percent), see
    :func:`~mmext.plugins.smoothout.functional.expected_sharpness` and
    :func:`~mmext.plugins.smoothout.functional.keskar_sharpness`. The model is in evaluation mode,
    all its trainable parameters move, norm layers' too. Weights, gradients and random states are
    as before afterwards. With several ranks each takes its share of the data and the mean is
    logged.

    Args:
        strength (float): Noise of the expected sharpness, > 0; give the strength of the compared
            SmoothOut runs.
        adapt (str): As in SmoothOutHook.
        draws (int): Draws of noise, >= 1.
        epsilon (float): Half width of Keskar's box, > 0 (author's code 5e-4).
        max_iters (int): Iterations of its search, >= 1 (Keskar: 10).
        batches (int): Batches of the validation data, >= 1.
        interval (int): Epochs, or iterations with ``by_epoch=False``, between measurements, >= 1.
        by_epoch (bool): Unit of ``interval``.

    Raises:
        ValueError: An argument is out of its range, or the run has no validation data.
        TypeError: The model is sharded (FSDP2).

    Cost: about ``batches * (draws + 1)`` forward and ``1.5 * batches * max_iters`` forward and
    backward passes; a dozen float64 vectors of all parameters for the search.

    Example:
        >>> custom_hooks = [dict(type='mmext.SharpnessHook', strength=0.006, interval=10)]
    """

    # The log of the same iteration shows the new values.
    priority = 'NORMAL'

    def __init__(
        self,
        strength: float,
        adapt: str = 'none',
        draws: int = 10,
        epsilon: float = 5e-4,
        max_iters: int = 10,
        batches: int = 1,
        interval: int = 1,
        by_epoch: bool = True,
    ) -> None:
        if adapt not in ADAPTS:
            raise ValueError(f'adapt={adapt!r} must be one of {ADAPTS}')
        positive = dict(strength=strength, draws=draws, epsilon=epsilon, max_iters=max_iters,
                        batches=batches, interval=interval)  # fmt: skip
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f'{name}={value} must be positive')
        self.strength = strength
        self.adapt = adapt
        self.draws = draws
        self.epsilon = epsilon
        self.max_iters = max_iters
        self.batches = batches
        self.interval = interval
        self.by_epoch = by_epoch
        self._data: list | None = None

    def before_train(self, runner) -> None:
        """Check that there is something to measure on."""
        if runner.val_loop is None:
            raise ValueError('SharpnessHook measures the validation loss: set val_dataloader')
        shards.refuse_shards(
            runner.model, 'SharpnessHook', 'it searches in one vector of all weights'
        )

    def after_train_epoch(self, runner) -> None:
        """Measure."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._log(runner)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Measure."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._log(runner)

    def _log(self, runner) -> None:
        measured = self.measure(runner)
        for name, value in measured.items():
            runner.message_hub.update_scalar(f'train/sharpness/{name}', value)
        text = ', '.join(f'{name} {value:.4g}' for name, value in measured.items())
        print_log(f'sharpness after iteration {runner.iter + 1}: {text}', logger='current')

    def measure(self, runner) -> dict[str, float]:
        """Return ``{'expected': ..., 'keskar': ...}`` of the runner's model as it is now."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        params = select_parameters(model, exclude_norm=False)
        params = [param for param in params if param.requires_grad]
        seed = rng.derive_seed(runner.seed, 'sharpness', runner.rank)
        device = params[0].device
        training = [(module, module.training) for module in model.modules()]
        with rng.isolated(seed):
            if self._data is None:
                self._data = list(islice(runner.val_loop.dataloader, self.batches))
            batches = [model.data_preprocessor(batch, False) for batch in self._data]
            model.eval()
            try:
                expected = expected_sharpness(
                    lambda: _mean_loss(model, batches),
                    params,
                    self.strength,
                    self.draws,
                    self.adapt,
                    generator=torch.Generator(device).manual_seed(seed),
                )
                keskar = keskar_sharpness(
                    lambda: _mean_loss(model, batches), params, self.epsilon, self.max_iters
                )
            finally:
                for module, mode in training:
                    module.training = mode
        values = torch.tensor([expected, keskar], dtype=torch.float64, device=device)
        all_reduce(values, op='mean')
        return dict(zip(('expected', 'keskar'), values.tolist(), strict=True))


def _mean_loss(model, batches: list[dict]) -> Tensor:
    losses = [model.parse_losses(model._run_forward(batch, mode='loss'))[0] for batch in batches]
    return torch.stack(losses).mean()
