"""Schedule of the reweighting and the numbers that tell whether the cycle still teaches."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.engine.shards import whole
from mmext.registry import HOOKS

from .functional import parameter_distance, ramp
from .teacher_hook import cycle_model


@HOOKS.register_module()
class DistributionConsistencyHook(Hook):
    """Schedule distribution consistency reweighting and watch the two pairs.

    Before ``start`` every pseudo-box counts 1; then the reweighting comes in linearly over
    ``ramp_up`` iterations. Logs ``dcr/student_distance``, ``||S1 - S2|| / ||S1||``, beside the
    detector's own ``dcr/…`` and ``pseudo/…``, and warns once when the teachers' divergence stays
    below ``collapse_js``: pairs that agree by construction have nothing to teach each other.

    Args:
        start: First iteration with reweighting, >= 0.
        ramp_up: Iterations until it is in full force, >= 0.
        temperature, floor: Replace those of the ``DistributionConsistency``; None: keep.
        interval: Iterations between two measurements, >= 1.
        collapse_js: Mean Jensen-Shannon divergence (nats, [0, ln 2]) taken for a collapse.
        patience: Measurements in a row below it before the warning, >= 1.

    Raises:
        ValueError: A number outside its range.

    Example:
        >>> custom_hooks = [dict(type='mmext.DistributionConsistencyHook', start=3000)]
    """

    def __init__(
        self,
        start: int = 0,
        ramp_up: int = 0,
        temperature: float | None = None,
        floor: float | None = None,
        interval: int = 50,
        collapse_js: float = 1e-3,
        patience: int = 5,
    ) -> None:
        if start < 0 or ramp_up < 0:
            raise ValueError(f'start={start} and ramp_up={ramp_up} must not be negative')
        if interval < 1 or patience < 1:
            raise ValueError(f'interval={interval} and patience={patience} must be at least 1')
        if temperature is not None and not temperature > 0:
            raise ValueError(f'temperature={temperature} must be above 0')
        if floor is not None and not 0 <= floor <= 1:
            raise ValueError(f'floor={floor} must be in [0, 1]')
        self.start = start
        self.ramp_up = ramp_up
        self.temperature = temperature
        self.floor = floor
        self.interval = interval
        self.collapse_js = collapse_js
        self.patience = patience
        self._low = 0

    def before_train(self, runner: Runner) -> None:
        """Apply the constants of the schedule."""
        consistency = cycle_model(runner, type(self).__name__).consistency
        if self.temperature is not None:
            consistency.temperature = self.temperature
        if self.floor is not None:
            consistency.floor = self.floor

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Set the share of the reweighting."""
        model = cycle_model(runner, type(self).__name__)
        model.consistency.share = ramp(runner.iter, self.start, self.ramp_up)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Measure the distance of the students and the divergence of the teachers."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = cycle_model(runner, type(self).__name__)
        distance = parameter_distance(*(student.parameters() for student in model.students))
        runner.message_hub.update_scalar('train/dcr/student_distance', float(whole(distance)))
        js = (outputs or {}).get('dcr/js_mean')
        if js is None:
            return
        self._low = self._low + 1 if float(js) < self.collapse_js else 0
        if self._low == self.patience:
            runner.logger.warning(
                f'CST has collapsed: the Jensen-Shannon divergence of the teachers has been below '
                f'{self.collapse_js} for {self.patience} measurements ({float(js):.2g} now), so T1 '
                'and T2 say the same. Give the students different initial heads, labelled batches '
                'or strong views.'
            )
