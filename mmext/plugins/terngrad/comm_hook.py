"""The communication hook that DistributedDataParallel calls for every bucket of gradients."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from . import coding
from .choice import Chooser
from .exchange import Exchange
from .functional import check_gradient
from .transport import Wire, backend_of, has_all_to_all, wire_bits

_PLAIN = {
    'float32': default_hooks.allreduce_hook,
    'bfloat16': default_hooks.bf16_compress_hook,
}


class HookState:
    """What one DDP module keeps between buckets.

    On a CPU all buckets go through one thread with a process group of its own. Collectives of two
    buckets then never wait for each other inside gloo's callbacks, where they would hang, and the
    exchange overlaps with the rest of the backward pass. With CUDA the collectives are
    asynchronous already and run on the stream that DDP has chosen. Buckets without ternary layers
    take torch's own hooks.

    Args:
        ddp: Module that the hook is registered on.
        exchange: Of the optim wrapper whose backward comes next; it may be replaced.
        say: Is given what users should know, in one line.
    """

    def __init__(
        self, ddp: DistributedDataParallel, exchange: Exchange, say: Callable[[str], None]
    ) -> None:
        self.exchange = exchange
        self.group = self._ddp_group = ddp.process_group
        self._say = say if dist.get_rank(self.group) == 0 else _say_nothing
        self._parameters = [p for p in ddp.parameters() if p.requires_grad]
        self._device = self._parameters[0].device
        self._choosers: dict[Exchange, Chooser] = {}
        self._thread: ThreadPoolExecutor | None = None
        if self._device.type == 'cpu':
            ranks = dist.get_process_group_ranks(self.group)
            self.group = dist.new_group(ranks, use_local_synchronization=True)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix='terngrad')
        self._coded = self._can_code()

    def run(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Start the exchange of one bucket."""
        check_gradient(bucket.buffer())
        exchange, parameters = self.exchange, bucket.parameters()
        chooser = self._chooser()
        # DDP reduces its buckets in the order of their numbers.
        if chooser is not None and bucket.index() == 0:
            self._begin(chooser)
        began = time.perf_counter()
        layers = [exchange.layer(parameter) for parameter in parameters]
        ways = {way for _, way in layers}
        if len(ways) == 1 and ways <= _PLAIN.keys():
            future = self._run_plain(bucket, ways.pop(), [key for key, _ in layers])
        else:
            future = self._run_ternary(bucket)
        if chooser is not None and not chooser.is_done:
            key = tuple(index for index, _ in layers)
            future.add_done_callback(lambda _: chooser.took(key, began, time.perf_counter()))
        return future

    def _run_plain(
        self, bucket: dist.GradBucket, way: str, keys: list[int]
    ) -> torch.futures.Future[Tensor]:
        self.exchange.restore(bucket.gradients(), keys)
        bits = wire_bits(way, dist.get_world_size(self._ddp_group))
        self.exchange.count(bucket.buffer().numel() * bits / 8)
        return _PLAIN[way](self._ddp_group, bucket)

    def _run_ternary(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        exchange, wire = self.exchange, Wire(self.group, self._coded)
        buffer, parameters, grads = bucket.buffer(), bucket.parameters(), bucket.gradients()

        def work() -> Tensor:
            with torch.no_grad():
                exchange.reduce(parameters, grads, wire)
            return buffer

        if self._thread is None:
            future = torch.futures.Future(devices=[buffer.device])
            _finish(future, work)
        else:
            future = torch.futures.Future()
            self._thread.submit(_finish, future, work)
        return future

    def _chooser(self) -> Chooser | None:
        """Of the current exchange, while it measures which way is fastest."""
        exchange = self.exchange
        if exchange.transport != 'auto' or not exchange.is_ternary:
            return None
        if exchange not in self._choosers:
            if exchange.ways:
                # From a checkpoint.
                return None
            self._choosers[exchange] = Chooser(self._say, by_bucket=self._thread is not None)
        return self._choosers[exchange]

    def _begin(self, chooser: Chooser) -> None:
        if chooser.is_done:
            return
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        layers = {self.exchange.layer(p)[0]: p.numel() for p in self._parameters}
        chooser.begin(time.perf_counter(), layers, self._most)
        self.exchange.ways.update(chooser.ways)
        self.exchange.has_chosen = chooser.is_done

    def _most(self, values: Tensor) -> Tensor:
        values = values.to(self._device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.group)
        return values

    def _can_code(self) -> bool:
        """Whether all ranks can shorten what they send."""
        if self._device.type != 'cpu' or not has_all_to_all(backend_of(self.group, self._device)):
            return False
        missing = torch.tensor([not coding.available()], dtype=torch.int32)
        dist.all_reduce(missing, op=dist.ReduceOp.MAX, group=self.group)
        if missing.item():
            self._say(
                'TernGrad sends packed codes; with zstandard on every rank they take about half '
                'as many bytes: pip install "mmext[terngrad]"'
            )
        return not missing.item()


class CountingState(HookState):
    """State of the hook in a loop without our optim wrapper, where each backward is an update.

    Args:
        ddp: Module that the hook is registered on.
        exchange: Knows the layers of ``ddp``.
        seed: Of the draws.

    Attributes:
        update: Number of the next exchange, which its draws depend on.
    """

    def __init__(self, ddp: DistributedDataParallel, exchange: Exchange, seed: int) -> None:
        super().__init__(ddp, exchange, logging.getLogger('mmext').info)
        self.seed = seed
        self.update = 0

    @property
    def sent(self) -> float:
        """Bytes that this rank has sent for the last update."""
        return self.exchange.sent

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: of each rank its own, if ``error_feedback`` is on."""
        return {'update': self.update, **self.exchange.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.update = state['update']
        self.exchange.load_state_dict(state)

    def run(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Start the exchange of one bucket."""
        if bucket.index() == 0:
            self.exchange.begin(self.seed, self.update, repeat=0, ternary=True, measure=False)
            self.update += 1
        return super().run(bucket)


def _say_nothing(line: str) -> None:
    """Rank 0 speaks for all."""


def _finish(future: torch.futures.Future, work: Callable[[], Tensor]) -> None:
    try:
        future.set_result(work())
    # Whatever went wrong belongs to the backward pass that waits for the future.
    except Exception as error:
        future.set_exception(error)


def terngrad_hook(state: HookState, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Communication hook for ``DistributedDataParallel.register_comm_hook``."""
    return state.run(bucket)


def connect(ddp: DistributedDataParallel, exchange: Exchange, say: Callable[[str], None]) -> None:
    """Register the hook on ``ddp``, or hand an earlier one of ours over to ``exchange``.

    Every rank must call it. Costs one more gloo group on a CPU.

    Raises:
        RuntimeError: See :func:`register_hook`.
    """
    state = getattr(ddp, '_mmext_terngrad', None)
    if state is not None:
        state.exchange = exchange
        return
    register_hook(ddp, HookState(ddp, exchange, say))


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
