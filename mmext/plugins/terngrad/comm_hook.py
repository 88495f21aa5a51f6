"""The communication hook that DistributedDataParallel calls for every bucket of gradients."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .exchange import Exchange
from .functional import check_gradient


class HookState:
    """What one DDP module keeps between buckets.

    On a CPU all buckets go through one thread with a process group of its own. Collectives of two
    buckets then never wait for each other inside gloo's callbacks, where they would hang, and the
    exchange overlaps with the rest of the backward pass. With CUDA the collectives are
    asynchronous already and run on the stream that DDP has chosen.

    Args:
        ddp: Module that the hook is registered on.
        exchange: Of the optim wrapper whose backward comes next; it may be replaced.
    """

    def __init__(self, ddp: DistributedDataParallel, exchange: Exchange) -> None:
        self.exchange = exchange
        self.group = ddp.process_group
        self._thread: ThreadPoolExecutor | None = None
        if next(ddp.parameters()).device.type == 'cpu':
            ranks = dist.get_process_group_ranks(self.group)
            self.group = dist.new_group(ranks, use_local_synchronization=True)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix='terngrad')

    def run(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Start the exchange of one bucket."""
        buffer = bucket.buffer()
        check_gradient(buffer)
        parameters, grads, exchange = bucket.parameters(), bucket.gradients(), self.exchange

        def work() -> Tensor:
            with torch.no_grad():
                exchange.reduce(parameters, grads, self.group)
            return buffer

        if self._thread is None:
            future = torch.futures.Future(devices=[buffer.device])
            _finish(future, work)
        else:
            future = torch.futures.Future()
            self._thread.submit(_finish, future, work)
        return future


class CountingState(HookState):
    """State of the hook in a loop without our optim wrapper, where each backward is an update.

    Args:
        ddp: Module that the hook is registered on.
        exchange: Knows the layers of ``ddp``.
        seed: Of the draws.

    Attributes:
        update: Number of the next exchange, which its draws depend on. Keep it in the checkpoint
            and set it after a resume.
    """

    def __init__(self, ddp: DistributedDataParallel, exchange: Exchange, seed: int) -> None:
        super().__init__(ddp, exchange)
        self.seed = seed
        self.update = 0

    @property
    def sent(self) -> float:
        """Bytes that this rank has sent for the last update."""
        return self.exchange.sent

    def run(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Start the exchange of one bucket."""
        # DDP reduces its buckets in the order of their numbers.
        if bucket.index() == 0:
            self.exchange.begin(self.seed, self.update, repeat=0, ternary=True, measure=False)
            self.update += 1
        return super().run(bucket)


def _finish(future: torch.futures.Future, work: Callable[[], Tensor]) -> None:
    try:
        future.set_result(work())
    # Whatever went wrong belongs to the backward pass that waits for the future.
    except Exception as error:
        future.set_exception(error)


def terngrad_hook(state: HookState, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Communication hook for ``DistributedDataParallel.register_comm_hook``."""
    return state.run(bucket)


def connect(ddp: DistributedDataParallel, exchange: Exchange) -> None:
    """Register the hook on ``ddp``, or hand an earlier one of ours over to ``exchange``.

    Every rank must call it. Costs one more gloo group on a CPU.

    Raises:
        RuntimeError: See :func:`register_hook`.
    """
    state = getattr(ddp, '_mmext_terngrad', None)
    if state is not None:
        state.exchange = exchange
        return
    register_hook(ddp, HookState(ddp, exchange))


def register_hook(ddp: DistributedDataParallel, state: HookState) -> None:
    """Register the hook on ``ddp``.

    Raises:
        RuntimeError: ``ddp`` has a communication hook.
    """
    try:
        ddp.register_comm_hook(state, terngrad_hook)
    except RuntimeError as error:
        raise RuntimeError(
            'the model has a communication hook already, and DDP takes only one; remove it '
            '(PowerSGD, fp16 compression ...) or train without TernGrad'
        ) from error
    ddp._mmext_terngrad = state
