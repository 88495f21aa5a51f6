"""SmoothOut on whatever optim wrapper a run has."""

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmext.engine import phases, rng, shards
from mmext.registry import HOOKS

from .functional import (
    ADAPTS,
    DISTRIBUTIONS,
    SCHEDULES,
    check_strength,
    fill_noise_,
    schedule,
)
from .perturbation import Perturbation, select_parameters
from .recalibration import recalibrate_bn

_NAME = 'smoothout'
# Other plugins that look at the weights before the forward or after the backward see clean ones.
_LAST, _FIRST = 1000, -1000


@HOOKS.register_module()
class SmoothOutHook(Hook):
    """Compute every gradient at weights with fresh noise and take the noise out before the update.

    Stochastic SmoothOut (arXiv 1805.07898): an unbiased gradient of ``E_n L(w + n)`` for one
    forward and backward pass. The noise is drawn anew for every forward, so each rank and each
    micro-batch of gradient accumulation has its own, like the author's ghost batches. It is in
    from ``optim_context`` to the end of ``backward`` only: optimizer, EMA, checkpoints and
    evaluation see clean weights, restored bit for bit, also after an exception in between. Noise
    is a function of seed, rank and iteration: resuming is exact.

    Works with plain, AMP and Apex wrappers, gradient accumulation, DDP and the members of an
    ``OptimWrapperDict`` (each perturbs the parameters it optimizes). On shards (FSDP2) each rank
    draws the noise of its own rows, in which filters are whole, so all ranks see one draw instead
    of one for each rank.

    Args:
        strength (float): ``a >= 0``; 0 is the plain run. 0.006 in the author's ImageNet example
            with ``adapt='none'``. For 'filter' it is the norm of a filter's noise relative to
            the filter.
        adapt (str): 'none' (SmoothOut), 'filter' (AdaSmoothOut) or 'weight', see
            :func:`~mmext.plugins.smoothout.functional.noise_like`.
        distribution (str): 'uniform' (paper) or 'normal' (author's code).
        schedule (str): Factor of the strength over the optimizer steps, 'constant', 'anneal' or
            'tanh', see :func:`~mmext.plugins.smoothout.functional.schedule` (author's code).
        exclude_norm (bool): No noise on the parameters of normalisation layers (author's code).
        exclude (sequence of str): Regular expressions of parameter names without noise (ours).
        clean_fraction (float): Probability in [0, 1) that a forward gets no noise, drawn for
            each rank (on shards, for all) and micro-batch; a mixture of both gradients as in RWP
            (ours).
        seed (int, optional): Of the noise; by default that of the run.
        recalibrate_bn (int): Batches of training data for new batch-norm statistics at the last
            iteration, before its checkpoint and validation; those of the training belong to noisy
            weights. 0: keep them (ours).

    Raises:
        ValueError: An argument is out of its range; in ``before_train``: an expression of
            ``exclude`` matches nothing or no parameter is left.

    Cost: no extra pass; one copy of the perturbed parameters; drawing the noise, measured in
    ``projects/smoothout``.

    Example:
        >>> custom_hooks = [dict(type='mmext.SmoothOutHook', strength=0.006)]
    """

    # Before hooks that look at the model after an iteration.
    priority = 'VERY_HIGH'

    def __init__(
        self,
        strength: float,
        adapt: str = 'none',
        distribution: str = 'uniform',
        schedule: str = 'constant',
        exclude_norm: bool = True,
        exclude: Sequence[str] = (),
        clean_fraction: float = 0.0,
        seed: int | None = None,
        recalibrate_bn: int = 0,
    ) -> None:
        check_strength(strength)
        for name, value, allowed in (
            ('adapt', adapt, ADAPTS),
            ('distribution', distribution, DISTRIBUTIONS),
            ('schedule', schedule, SCHEDULES),
        ):
            if value not in allowed:
                raise ValueError(f'{name}={value!r} must be one of {allowed}')
        if isinstance(exclude, str):
            raise ValueError(f'exclude={exclude!r} must be a list of expressions: [{exclude!r}]')
        if not 0 <= clean_fraction < 1:
            raise ValueError(
                f'clean_fraction={clean_fraction} must be in [0, 1); strength=0 is the plain run'
            )
        if recalibrate_bn < 0:
            raise ValueError(f'recalibrate_bn={recalibrate_bn} batches must not be negative')
        self.strength = strength
        self.adapt = adapt
        self.distribution = distribution
        self.schedule = schedule
        self.exclude_norm = exclude_norm
        self.exclude = tuple(exclude)
        self.clean_fraction = clean_fraction
        self.seed = seed
        self.recalibrate_bn = recalibrate_bn
        self._members: dict[str, tuple[OptimWrapper, Perturbation]] = {}
        self._draws: dict[str, tuple[int, int]] = {}

    def before_train(self, runner) -> None:
        """Choose the parameters and attach to the training step."""
        self._detach()  # a training before this one may have ended with an exception
        self._seed = runner.seed if self.seed is None else self.seed
        for name, wrapper in phases.members(runner.optim_wrapper).items():
            among = (p for group in wrapper.optimizer.param_groups for p in group['params'])
            params = select_parameters(runner.model, self.exclude_norm, self.exclude, among)
            self._attach(runner, name, wrapper, Perturbation(params))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Restore where a step ran no backward; renew batch-norm statistics at the end."""
        self._restore()
        if self.recalibrate_bn and runner.iter + 1 == runner.max_iters:
            with rng.isolated(rng.derive_seed(self._seed, _NAME, 'recalibrate', runner.rank)):
                loader = runner.train_loop.dataloader
                recalibrate_bn(runner.model, loader, self.recalibrate_bn)

    def after_train(self, runner) -> None:
        """Leave no trace."""
        self._detach()

    def _attach(self, runner, name: str, wrapper: OptimWrapper, perturbation: Perturbation) -> None:
        self._members[name] = wrapper, perturbation
        attached = phases.attach(wrapper)
        for phase, callback, order in (
            ('before_forward', lambda model: self._inject(runner, name), _LAST),
            ('after_backward', perturbation.restore, _FIRST),
            ('on_exception', lambda error: perturbation.restore(), _FIRST),
        ):
            attached.register(phase, callback, _NAME, order, shards=True)

    def _detach(self) -> None:
        self._restore()
        for wrapper, _ in self._members.values():
            phases.attach(wrapper).unregister(_NAME)
        self._members.clear()
        self._draws.clear()

    def _restore(self) -> None:
        for _, perturbation in self._members.values():
            perturbation.restore()

    def _inject(self, runner, name: str) -> None:
        wrapper, perturbation = self._members[name]
        iteration = runner.iter
        before, index = self._draws.get(name, (iteration, 0))
        index = index if before == iteration else 0
        self._draws[name] = iteration, index + 1
        # runner.iter counts micro-batches.
        every = wrapper._accumulative_counts
        strength = self.strength * schedule(
            self.schedule, iteration // every, max(runner.max_iters // every, 1)
        )
        runner.message_hub.update_scalar('train/smoothout/strength', strength)
        key = self._seed, f'{_NAME}/{name}', runner.rank, iteration, index
        # On shards the ranks toss one coin, since they make one draw together.
        tosser = 0 if shards.is_sharded(runner.model) else runner.rank
        coin = *key[:2], tosser, *key[3:]
        if strength == 0 or (self.clean_fraction and self._is_clean(*coin)):
            perturbation.inject(None)
            return
        generators: dict[torch.device, torch.Generator] = {}

        def fill(noise: Tensor, clean: Tensor) -> None:
            device = noise.device
            if device not in generators:
                generators[device] = rng.generator(*key, device=device)
            fill_noise_(noise, clean, strength, self.adapt, self.distribution, generators[device])

        perturbation.inject(fill)

    def _is_clean(self, seed: int, stream: str, *key: int) -> bool:
        coin = rng.generator(seed, f'{stream}/clean', *key)
        return torch.rand((), generator=coin).item() < self.clean_fraction
