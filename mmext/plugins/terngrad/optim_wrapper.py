"""Optim wrappers that exchange ternary gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmext.registry import OPTIM_WRAPPERS

from .comm_hook import connect
from .error_feedback_hook import collect_errors
from .exchange import MIN_NUMEL, Exchange

_STATE = 'terngrad'
# Counting codes costs a pass over them; a log line does not need every update.
_MEASURE_INTERVAL = 10


class TernGradMixin(OptimWrapper):
    """What :class:`TernGradOptimWrapper` adds to an optim wrapper."""

    def __init__(
        self,
        *args: Any,
        clip_factor: float | None = 2.5,
        share_scaler: bool = True,
        min_numel: int = MIN_NUMEL,
        keep_float: Sequence[str] = (),
        transport: str = 'ternary',
        requantize: bool = False,
        error_feedback: bool = False,
        begin_iter: int = 0,
        seed: int | None = None,
        virtual_workers: bool = False,
        **kwargs: Any,
    ) -> None:
        if begin_iter < 0:
            raise ValueError(f'begin_iter={begin_iter} must not be negative')
        self.exchange = Exchange(
            clip_factor, share_scaler, min_numel, keep_float, transport, requantize, error_feedback
        )
        super().__init__(*args, **kwargs)
        self.begin_iter = begin_iter
        self.seed = seed
        self.virtual_workers = virtual_workers
        self._models: WeakSet[nn.Module] = WeakSet()
        self._distributed = False
        self._place = (-1, 0)
        self._workers: list[list[Tensor | None]] = []
        #: Errors of all ranks, where :class:`ErrorFeedbackHook` saves a checkpoint.
        self._errors: list[dict[int, Tensor]] | None = None
        self._saves_errors = False

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As the parent; registers the communication hook when ``model`` is new.

        Raises:
            TypeError: FSDP or DeepSpeed, or ranks without DistributedDataParallel.
            ValueError: ``keep_float`` matches nothing, or virtual workers in a distributed run.
        """
        if model not in self._models:
            self._attach(model)
        for replica in _replicas(model):
            connect(replica, self.exchange, partial(print_log, logger='current'))
        if self.should_sync():
            self._begin()
        with super().optim_context(model):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """As the parent; with DDP the gradients are exchanged when it returns."""
        syncs = self.should_sync()
        super().backward(loss, **kwargs)
        if self._distributed:
            if syncs:
                self._log()
        elif self.virtual_workers:
            self._require_context()
            parameters = self._parameters()
            self._workers.append([parameter.grad for parameter in parameters])
            for parameter in parameters:
                parameter.grad = None

    def scale_loss(self, loss: Tensor) -> Tensor:
        """As the parent; a virtual worker's loss is not divided, the mean over workers does it."""
        return loss if self.virtual_workers else super().scale_loss(loss)

    def step(self, **kwargs: Any) -> None:
        """As the parent; without DDP the gradients are ternarized first."""
        if not self._distributed:
            self._require_context()
            parameters = self._parameters()
            workers = self._workers or [[parameter.grad for parameter in parameters]]
            self._workers = []
            with torch.no_grad():
                means = self.exchange.average(parameters, workers)
            for parameter, mean in zip(parameters, means, strict=True):
                parameter.grad = mean
            self._log()
        super().step(**kwargs)

    def state_dict(self) -> dict:
        """As the parent; with what was chosen and what error feedback has kept."""
        state, own = super().state_dict(), self.exchange.state_dict()
        if self._errors is not None:
            own['errors'] = dict(enumerate(self._errors))
        return {**state, _STATE: own} if own else state

    def load_state_dict(self, state_dict: dict) -> None:
        """As the parent.

        Raises:
            ValueError: The checkpoint has the errors of another number of ranks.
        """
        own = dict(state_dict.pop(_STATE, {}))
        if 'errors' in own and get_world_size() > 1:
            if len(own['errors']) != get_world_size():
                raise ValueError(
                    f'the checkpoint has the error feedback of {len(own["errors"])} ranks, and '
                    f'this run has {get_world_size()}; resume with as many'
                )
            own['errors'] = {0: own['errors'][get_rank()]}
        self.exchange.load_state_dict(own)
        super().load_state_dict(state_dict)

    @contextmanager
    def gathered_errors(self) -> Iterator[None]:
        """Let :meth:`state_dict` have the errors of all ranks; every rank must enter it."""
        if self._distributed and self.exchange.feedback is not None:
            errors = self.exchange.feedback.errors.get(0, {})
            self._errors = collect_errors(errors)
        try:
            yield
        finally:
            self._errors = None

    def saves_errors(self) -> None:
        """Say that checkpoints are written within :meth:`gathered_errors`."""
        self._saves_errors = True

    def _attach(self, model: nn.Module) -> None:
        _refuse_sharded(model)
        replicas = _replicas(model)
        self._distributed = bool(replicas)
        if self.virtual_workers and replicas:
            raise ValueError(
                'virtual_workers=True simulates ranks in one process; set it to False in a '
                'distributed run, where every rank is a worker'
            )
        n_ranks = get_world_size()
        if not replicas and n_ranks > 1:
            raise TypeError(
                'TernGrad exchanges gradients through MMDistributedDataParallel, but in this run '
                f'of {n_ranks} ranks the model is {type(model).__name__}'
            )
        runs = self.message_hub.get_info('iter') is not None
        if replicas and runs and self.exchange.feedback is not None and not self._saves_errors:
            raise ValueError(
                'error_feedback=True keeps what each rank left out; add '
                "custom_hooks=[dict(type='mmext.ErrorFeedbackHook')], which saves it in checkpoints"
            )
        self.exchange.attach(model)
        self._models.add(model)

    def _begin(self) -> None:
        # The hub knows the iteration after a resume, and also for the members of an
        # OptimWrapperDict, whose own counters start afresh.
        iteration = self.message_hub.get_info('iter')
        if iteration is None:
            iteration = self._inner_count
        update = iteration // self._accumulative_counts
        last, repeat = self._place
        self._place = (update, repeat + 1 if update == last else 0)
        seed = self.seed
        if seed is None:
            seed = self.message_hub.get_info('seed')
        if seed is None:
            seed = torch.initial_seed()
        self.exchange.begin(
            seed,
            *self._place,
            ternary=iteration >= self.begin_iter,
            measure=update % _MEASURE_INTERVAL == 0,
            loss_scale=1.0 if self.exchange.feedback is None else self._loss_scale(),
        )

    def _loss_scale(self) -> float:
        """What losses are multiplied with, which waits for the device."""
        return 1.0

    def _parameters(self) -> list[nn.Parameter]:
        groups = self.optimizer.param_groups
        return [parameter for group in groups for parameter in group['params']]

    def _require_context(self) -> None:
        if not self._models:
            raise RuntimeError(
                'run the forward pass inside `with optim_wrapper.optim_context(model)`: TernGrad '
                'learns the model there'
            )

    def _log(self) -> None:
        if self._distributed:
            mib = self.exchange.sent / 2**20
            self.message_hub.update_scalar('train/terngrad/wire_mib', mib)
        if self.exchange.measures is not None:
            for name, value in self.exchange.measures.summary().items():
                self.message_hub.update_scalar(f'train/terngrad/{name}', value)


@OPTIM_WRAPPERS.register_module()
class TernGradOptimWrapper(TernGradMixin):
    """Exchange gradients between workers as -1, 0, 1 times one scaler per layer.

    Every worker clips its gradient to ``c * sigma`` and replaces it by unbiased ternary codes; the
    mean over the workers goes to the optimizer. With DDP the codes travel packed and, where
    zstandard is installed, entropy-coded through a communication hook that is registered on the
    first ``optim_context(model)``. Without it the gradient of the one process is ternarized.

    Works with gradient accumulation (one exchange for each update), clipping by ``clip_grad``
    (applied to the mean, whose norm is larger) and any optimizer. Draws depend on seed, worker,
    update and layer alone: resuming is exact, and N virtual workers equal N ranks bit for bit
    where all layers are ternary (but for ``requantize``, which ranks do for their shares).
    A NaN on one rank makes the layer NaN on all.

    Args:
        *args: Of the parent.
        clip_factor: ``c`` > 0 (paper: 2.5); None for no clipping.
        share_scaler: All workers take the largest scaler (paper). False: each has its own, which
            travels with the codes of single ranks, (N - 1) times their bits.
        min_numel: Parameters with fewer elements stay float, >= 1 (author's code:
            ``size_to_binarize``, 9217 for AlexNet). The default keeps biases and norms of networks
            up to 2,048 wide, which are hardly any bytes.
        keep_float: Regular expressions; parameters whose name one of them finds stay float
            (the paper keeps AlexNet's last layer). Each must find one. Default: none.
        transport: 'ternary' sends codes. 'auto' times steps with float32, bfloat16 and ternary
            gradients in the first 20 to 32 updates and keeps the fastest for each bucket, see
            :mod:`~mmext.plugins.terngrad.choice`; in bfloat16 all of a bucket is, layers that
            stay float included. Both ours.
        requantize: Round the sums that come back, unbiased, to levels that are half their root mean
            square apart, so that their bits stop growing with the ranks. From about 25 ranks on,
            where that is more than 1, the mean square of the sums grows by 1/16 at most, see
            :mod:`~mmext.plugins.terngrad.requantize` (ours).
        error_feedback: Add to the next gradient what the codes leave out, and take the nearest
            codes instead of unbiased draws (ours, see :mod:`~mmext.plugins.terngrad.feedback`);
            ``clip_factor`` is not used then. Costs 4 bytes of memory an element. With several ranks
            in a Runner :class:`mmext.ErrorFeedbackHook` must be there, which has the errors of all
            ranks in the checkpoint.
        begin_iter: Iterations with float gradients first, >= 0 (ours).
        seed: Of the draws; None takes the run's.
        virtual_workers: Without DDP, treat each micro-batch of an update as one worker (author's
            ``num_nodes``): ``accumulative_counts`` workers in one process. Keeps their gradients
            until the update, N times the memory.
        **kwargs: Of the parent (``optimizer``, ``accumulative_counts``, ``clip_grad``).

    Raises:
        ValueError: An argument is out of range.

    Logs ``terngrad/zeros`` (share of zero codes), ``terngrad/norm_inflation`` (norm of this
    worker's ternary gradient over that of its gradient; both every tenth update) and
    ``terngrad/wire_mib`` (MiB this rank sends for an update).

    Cost: encoding and decoding, some 10 ns for an element and CPU thread, 1 byte of memory for an
    element. Wire: :func:`~mmext.plugins.terngrad.transport.wire_bits` at most, about half of that
    with zstandard.

    Paper: TernGrad, arXiv 1705.07878. Wire format and transports are ours.

    Example:
        >>> optim_wrapper = dict(
        ...     type='mmext.TernGradOptimWrapper',
        ...     clip_factor=2.5,
        ...     keep_float=[r'fc.*'],
        ...     optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    """


@OPTIM_WRAPPERS.register_module()
class TernGradAmpOptimWrapper(TernGradMixin, AmpOptimWrapper):
    """:class:`TernGradOptimWrapper` with MMEngine's mixed precision; arguments of both.

    Gradients are ternarized as scaled, which changes nothing: codes do not depend on the scale. An
    overflow on one rank reaches the GradScaler of every rank.

    Example:
        >>> optim_wrapper = dict(
        ...     type='mmext.TernGradAmpOptimWrapper', dtype='float16',
        ...     optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    """

    def _loss_scale(self) -> float:
        return float(self.loss_scaler.get_scale())


def _replicas(model: nn.Module) -> list[DistributedDataParallel]:
    """``model`` if it is DDP, or the DDP children of MMSeparateDistributedDataParallel."""
    # The separate wrapper is a subclass of DDP that has no reducer of its own.
    if isinstance(model, DistributedDataParallel) and hasattr(model, 'reducer'):
        return [model]
    if is_model_wrapper(model):
        children = model.module.children()
        return [child for child in children if isinstance(child, DistributedDataParallel)]
    return []


def _refuse_sharded(model: nn.Module) -> None:
    for module in model.modules():
        names = {base.__name__ for base in type(module).__mro__}
        if names & {'FullyShardedDataParallel', 'FSDPModule', 'DeepSpeedEngine'} or any(
            'DeepSpeed' in name for name in names
        ):
            raise TypeError(
                f'TernGrad does not support {type(module).__name__}, which shards gradients or '
                'exchanges them by itself; use MMDistributedDataParallel'
            )
