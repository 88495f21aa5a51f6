"""Force regularization of any model that MMEngine trains."""

from collections.abc import Sequence

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch.optim import Optimizer

from mmext.engine.shards import is_sharded, whole
from mmext.registry import HOOKS

from .filter_hook import FilterHook
from .functional import as_matrices, rank_at, spectrum
from .step import add_force_, check_force, is_decoupled

_COLLAPSED = 2


@HOOKS.register_module()
class ForceRegularizationHook(FilterHook):
    """Pull the filters of every layer together while the network trains (arXiv 1703.09746).

    ``W <- W - lr (dE/dW - strength dW)`` with dW of
    :func:`~mmext.plugins.force_regularization.functional.force`. The order is that of the author's
    solver: averaging over accumulation, clipping and unscaling come first, then weight decay and
    force, then momentum. SGD adds its weight decay inside ``step``, and both are sums, so the force
    is subtracted from ``.grad`` right before it: neither clipped nor divided by the number of
    micro-batches, but smoothed by momentum and multiplied by the layer's learning rate. (His solver
    clips before it averages; with accumulation his threshold is ours times the counts.)

    Adam and its kin would divide the force by their own statistics. There it is decoupled, as
    AdamW's weight decay: ``W <- W + lr strength dW``, then the optimizer's step.

    Logs the ranks at ``energy`` and warns when a layer collapses. Costs O(N^2 D) per layer and
    step for ``'l1'``, O(N D) for ``'l2'``; no communication: all ranks hold the same weights. On
    shards (FSDP2) each layer's weight is gathered in turn for a step and for a report (with
    ``'adaptive'`` its gradient, too), and every rank computes the whole force. Stateless, so a
    resumed run is exact.

    Args:
        strength: Factor of the force (the paper's lambda); negative repels (discrimination
            regularization). Published: L1 1e-3 for LeNet, L2 5e-5 for the CIFAR-10 ConvNet; should
            vary with the architecture. With BN the loss does not depend on a filter's length, so
            what counts is strength times its square.
        kind: ``'l1'`` or ``'l2'``. L2 grows with the number of filters.
        include: Regular expressions, searched in the names of convolutions and linear layers;
            None: all convolutions. Depthwise ones have one filter per group and are left out.
        exclude: Regular expressions of layers to leave alone. The author leaves out the first
            convolution and the 1x1 shortcuts of ResNet-20.
        mode: ``'fixed'``, or ``'adaptive'`` (author's code): the force is scaled to ``strength``
            times the norm of the layer's gradient.
        until: Iteration from which on there is no force; None: never.
        decoupled: None: for every optimizer but SGD in mode ``'fixed'``. False adds the force to
            the gradient of any optimizer. Ours.
        energy: Share of the squared Frobenius norm that a rank must keep, in (0, 1].
        interval: Iterations between two reports of the ranks, >= 1. Costs an eigendecomposition
            of N x N or D x D per layer.

    Raises:
        ValueError: An argument is out of its range, or a pattern matches no layer.

    Example:
        >>> custom_hooks = [dict(type='mmext.ForceRegularizationHook', strength=1e-3,
        ...                      exclude=[r'backbone\\.conv1$', 'downsample'])]
    """

    phases = ('before_update',)
    shards = True

    def __init__(
        self,
        strength: float,
        kind: str = 'l1',
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        mode: str = 'fixed',
        until: int | None = None,
        decoupled: bool | None = None,
        energy: float = 0.95,
        interval: int = 500,
    ) -> None:
        super().__init__(include, exclude)
        check_force(strength, kind, mode)
        if until is not None and until < 0:
            raise ValueError(f'until={until} must not be negative; None: the force stays on')
        if not 0 < energy <= 1:
            raise ValueError(f'energy={energy} must be in (0, 1]')
        if interval < 1:
            raise ValueError(f'interval={interval} must be at least 1')
        if mode == 'adaptive' and decoupled:
            raise ValueError(
                "mode='adaptive' measures the force by the gradient, which means nothing beside "
                "the step of another optimizer: use decoupled=False or mode='fixed'"
            )
        self.strength = strength
        self.kind = kind
        self.mode = mode
        self.until = until
        self.decoupled = decoupled
        self.energy = energy
        self.interval = interval
        self._collapsed: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Find the layers, check the optimizer and report the first ranks."""
        super().before_train(runner)
        self._collapsed = set()
        self._report(runner, runner.iter)

    @torch.no_grad()
    def on_before_update(self, optimizer: Optimizer) -> None:
        """Add the force to the gradients or, decoupled, to the weights."""
        if self.until is not None and self.runner.iter >= self.until:
            return
        decoupled = self.decoupled
        if decoupled is None:
            decoupled = is_decoupled(optimizer, self.mode)
        for weight, layer, group in self.owned(optimizer):
            add_force_(weight, layer, group, self.strength, self.kind, self.mode, decoupled)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Report the ranks every ``interval`` iterations and at the end."""
        if self.every_n_train_iters(runner, self.interval) or runner.iter + 1 == runner.max_iters:
            self._report(runner, runner.iter + 1)

    @torch.no_grad()
    def ranks(self) -> dict[str, tuple[int, int]]:
        """Rank at ``energy`` and full rank of every layer, per group of grouped ones.

        On shards all ranks must call it.
        """
        result = {}
        for name, layer in self.layers.items():
            energies = spectrum(as_matrices(whole(layer.weight), getattr(layer, 'groups', 1)))
            result[name] = rank_at(energies, self.energy), energies.shape[-1]
        return result

    def _report(self, runner: Runner, iteration: int) -> None:
        # On shards every rank takes part in the gathers.
        if not (is_main_process() or is_sharded(runner.model)):
            return
        ranks = self.ranks()
        if not is_main_process():
            return
        shares = [rank / full for rank, full in ranks.values()]
        runner.message_hub.update_scalar('train/rank/mean_share', sum(shares) / len(shares))
        runner.visualizer.add_scalars(
            # With 'iter', as LoggerHook's training scalars; without, it is read as a validation.
            {'iter': iteration} | {f'rank/{name}': rank for name, (rank, _) in ranks.items()},
            step=iteration,
        )
        listed = ', '.join(f'{name} {rank}/{full}' for name, (rank, full) in ranks.items())
        runner.logger.info(f'ranks at {100 * self.energy:g} % energy: {listed}')
        collapsed = {
            name for name, (rank, full) in ranks.items() if rank <= _COLLAPSED < full
        } - self._collapsed
        if collapsed and self.strength > 0:
            self._collapsed |= collapsed
            runner.logger.warning(
                f'force regularization has collapsed {", ".join(sorted(collapsed))}: rank '
                f'{_COLLAPSED} or less, all filters of the layer are nearly parallel. Lower '
                'strength, end it with until, or exclude the layer.'
            )
