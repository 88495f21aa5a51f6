"""Moving averages, burn-in and ramp of cycle self-training."""

import math
from dataclasses import asdict, replace
from functools import partial

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.utils import clip_grad_norm_

from mmext.engine import phases
from mmext.registry import HOOKS

from .cycle import check_momentum
from .functional import ema_update, ramp
from .schedule import AUTO, schedule

_NAME = 'cst'
_KEPT = 'cst_teachers_kept'
_CHOSEN = 'cst_schedule'
HANDOVERS = ('copy', 'average')


def cycle_model(runner: Runner, asked_by: str) -> nn.Module:
    """The ``CycleSelfTraining`` of a run, unwrapped.

    Raises:
        TypeError: The run trains another model.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not all(hasattr(model, part) for part in ('students', 'teachers', 'consistency')):
        raise TypeError(
            f'{asked_by} serves mmext.CycleSelfTraining, but the model is {type(model).__name__}'
        )
    return model


@HOOKS.register_module()
class CycleTeacherHook(Hook):
    """``T_i <- (1 - momentum) T_i + momentum S_i`` after every optimizer step, for both pairs.

    The average follows real updates: micro-batches of gradient accumulation and steps that mixed
    precision skips do not count. While ``iter < burn_in`` the students see labels only; from
    ``burn_in`` on the unsupervised loss rises linearly over ``ramp_up`` iterations. Teachers loaded
    with ``load_from`` are kept: they are never overwritten by a copy. Resuming needs nothing.

    What is ``'auto'`` follows from the length of the training
    (:func:`~mmext.plugins.cst.schedule.schedule`) and is logged. It stays in the checkpoint, so a
    resumed run that is made longer keeps it.

    Args:
        momentum: Weight of the student in the average, as in MMDetection's ``MeanTeacherHook``: the
            paper's alpha is ``1 - momentum``. In (0, 0.5), or ``'auto'``.
        burn_in: Supervised iterations, >= 0, or ``'auto'``. A run that is not longer warns: it
            never uses its unlabelled images.
        ramp_up: Iterations from 0 to the full unsupervised weight, >= 0, or ``'auto'``.
        skip_buffers: Leave the teachers' buffers (BN statistics) as loaded. Only for detectors with
            frozen BN.
        clip_grad: Arguments of ``clip_grad_norm_``, applied to each student alone; the
            optimizer wrapper's ``clip_grad`` takes one norm over both and so couples them.
            None: no clipping.
        handover: What the teachers are when the burn-in ends: ``'copy'`` of their students
            (common in the field), or their ``'average'`` over the burn-in, which under a constant
            learning rate detects better than the student (ours).

    Raises:
        ValueError: A number outside its range or an unknown ``handover``.

    Example:
        >>> custom_hooks = [dict(type='mmext.CycleTeacherHook', momentum=0.0004, burn_in=2000)]
    """

    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        momentum: float | str = 0.004,
        burn_in: int | str = 0,
        ramp_up: int | str = 0,
        skip_buffers: bool = False,
        clip_grad: dict | None = None,
        handover: str = 'copy',
    ) -> None:
        if momentum != AUTO:
            check_momentum(momentum, 'CycleTeacherHook')
        for name, value in (('burn_in', burn_in), ('ramp_up', ramp_up)):
            if value != AUTO and (isinstance(value, str) or value < 0):
                raise ValueError(
                    f'CycleTeacherHook {name}={value!r} must be {AUTO!r} or not negative'
                )
        if handover not in HANDOVERS:
            raise ValueError(f'CycleTeacherHook handover={handover!r} must be one of {HANDOVERS}')
        self.momentum = momentum
        self.burn_in = burn_in
        self.ramp_up = ramp_up
        self.skip_buffers = skip_buffers
        self.clip_grad = clip_grad
        self.handover = handover

    def before_train(self, runner: Runner) -> None:
        """Start the teachers and attach to the optimizer step."""
        model = cycle_model(runner, type(self).__name__)
        self._follow_length(runner)
        if runner.iter == 0:
            runner.message_hub.update_info(_KEPT, bool(model.teachers_loaded))
            self._copy(runner, model)
        self._phases = phases.attach(runner.optim_wrapper)
        average = lambda optimizer: self._average(model, self.used.momentum)  # noqa: E731
        self._phases.register('after_update', average, name=_NAME, shards=True)
        if self.clip_grad is not None:
            clip = partial(self._clip, model, self.clip_grad)
            self._phases.register('before_update', clip, name=_NAME, shards=True)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Set the weight of the unsupervised loss; end the burn-in."""
        model = cycle_model(runner, type(self).__name__)
        burn_in = self.used.burn_in
        if self.handover == 'copy' and burn_in and runner.iter == burn_in:
            self._copy(runner, model)
        model.unsup_scale = ramp(runner.iter, burn_in, self.used.ramp_up)

    def after_train(self, runner: Runner) -> None:
        """Detach."""
        self._phases.unregister(_NAME)

    def _follow_length(self, runner: Runner) -> None:
        """Fill in what is ``'auto'``, as the run began; say what the schedule is."""
        length = runner.max_iters
        found = schedule(length, self.burn_in, self.ramp_up, self.momentum)
        chosen = [key for key, value in asdict(found).items() if getattr(self, key) != value]
        kept = runner.message_hub.get_info(_CHOSEN, {}) if runner.iter > 0 else {}
        self.used = replace(found, **{key: kept[key] for key in chosen if key in kept})
        runner.message_hub.update_info(_CHOSEN, {key: getattr(self.used, key) for key in chosen})
        if self.used.burn_in >= length:
            runner.logger.warning(
                f'CycleTeacherHook burn_in={self.burn_in} is not below the {length} iterations of '
                'this run: it trains on the labels alone and never uses the unlabelled images. '
                f'Lower it, or write burn_in={AUTO!r}.'
            )
        half_life = math.log(2) / self.used.momentum
        runner.logger.info(
            f'CST of {length} iterations: burn_in={self.used.burn_in} on the labels alone, '
            f'ramp_up={self.used.ramp_up}, momentum={self.used.momentum:.3g} (the average forgets '
            f'half in {half_life:.0f} iterations), clip_grad={self.clip_grad}; of these '
            f'{", ".join(chosen) or "none"} {AUTO}'
        )

    def _copy(self, runner: Runner, model: nn.Module) -> None:
        if not runner.message_hub.get_info(_KEPT):
            self._average(model, 1.0)

    def _average(self, model: nn.Module, momentum: float) -> None:
        for teacher, student in zip(model.teachers, model.students, strict=True):
            ema_update(teacher, student, momentum, self.skip_buffers and momentum != 1)

    @staticmethod
    def _clip(model: nn.Module, arguments: dict, optimizer) -> None:
        for student in model.students:
            clip_grad_norm_(student.parameters(), **arguments)
