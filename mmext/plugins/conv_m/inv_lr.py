"""Caffe's schedule "inv"."""

from typing import Any

from mmengine.optim import _ParamScheduler

from mmext.registry import PARAM_SCHEDULERS

from .functional import inv_decay


@PARAM_SCHEDULERS.register_module()
class InvLR(_ParamScheduler):
    """Learning rate times ``(1 + gamma i)^-power`` at step i, Caffe's policy "inv".

    It changes the current rate by a factor in every step, so that it can be combined with a
    warm-up.

    Args:
        optimizer: Optimizer or wrapper of one.
        gamma: >= 0 (DAN, RTN: 0.001 with 20,000 iterations).
        power: >= 0 (DAN, RTN: 0.75).
        **kwargs: ``begin``, ``end``, ``last_step``, ``by_epoch``, ``verbose`` of MMEngine's
            schedulers. Steps are epochs by default; the papers count iterations.

    Raises:
        ValueError: ``gamma`` or ``power`` is below 0.

    Example:
        >>> param_scheduler = dict(type='mmext.InvLR', gamma=0.001, power=0.75, by_epoch=False)
    """

    def __init__(
        self, optimizer: Any, gamma: float = 0.001, power: float = 0.75, **kwargs: Any
    ) -> None:
        if not (gamma >= 0 and power >= 0):
            raise ValueError(f'gamma={gamma} and power={power} must not be below 0')
        self.gamma = gamma
        self.power = power
        super().__init__(optimizer, 'lr', **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls,
        optimizer: Any,
        gamma: float = 0.001,
        begin: int = 0,
        end: int = 10**9,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> 'InvLR':
        """Make the scheduler by iterations from a config by epochs, for MMEngine's Runner.

        Raises:
            ValueError: ``by_epoch`` is False, or ``epoch_length`` is no positive number.
        """
        if not by_epoch or not epoch_length:
            raise ValueError(
                f'convert_to_iter_based needs by_epoch=True and epoch_length, got '
                f'by_epoch={by_epoch}, epoch_length={epoch_length}'
            )
        return cls(
            optimizer,
            gamma=gamma / epoch_length,
            begin=begin * epoch_length,
            end=end if end == 10**9 else end * epoch_length,
            by_epoch=False,
            **kwargs,
        )

    def _get_value(self) -> list[float]:
        factor = 1.0
        if self.last_step > 0:
            now, before = (
                inv_decay(step, self.gamma, self.power)
                for step in (self.last_step, self.last_step - 1)
            )
            factor = now / before
        return [group[self.param_name] * factor for group in self.optimizer.param_groups]
