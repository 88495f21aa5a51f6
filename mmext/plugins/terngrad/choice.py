"""Which buckets travel as float32, bfloat16 or ternary codes: what is fastest is measured."""

import statistics
import threading
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

#: From the most exact to the least.
WAYS = ('float32', 'bfloat16', 'ternary')
MIXED = 'mixed'
#: Updates before the first measured one: DDP rebuilds its buckets after one.
WARM_UP = 2
#: Updates with each way.
ROUNDS = 6
#: A less exact way must take so much less time.
GAIN = 0.02

Bucket = tuple[int, ...]


class Chooser:
    """Times the ways on the first updates of a training and then keeps the fastest.

    A step with each way is timed as a whole, so compute, codec, link and their overlap are in it,
    and the ways take turns. In the same updates the exchange of each bucket is timed, and where the
    buckets do not agree on the fastest way, the mixture is timed as a whole as well. All ranks
    choose alike, since they decide on the largest times of all ranks.

    Args:
        say: Is given one line with the choice.
        by_bucket: Whether mixtures are tried; the times of buckets are right on a CPU only.

    Attributes:
        ways: Way by layer for the current update.
        is_done: Whether the choice is made.
    """

    def __init__(self, say: Callable[[str], None], by_bucket: bool) -> None:
        self.ways: dict[int, str] = {}
        self.is_done = False
        self._say, self._by_bucket = say, by_bucket
        self._plans = list(WAYS)
        self._plan, self._began = '', 0.0
        self._index = -WARM_UP
        self._steps: dict[str, list[float]] = defaultdict(list)
        self._told: dict[str, float] = {}
        self._spans: list[tuple[Bucket, float, float]] = []
        self._buckets: dict[tuple[Bucket, str], list[float]] = defaultdict(list)
        self._mixture: dict[int, str] = {}
        self._lock = threading.Lock()

    def begin(self, now: float, layers: dict[int, int], most: Callable[[Tensor], Tensor]) -> None:
        """The first bucket of an update is ready: take the times of the last one.

        Args:
            now: Seconds of a clock.
            layers: Elements by layer.
            most: Largest value over the ranks, for a float64 vector; every rank calls it.
        """
        if self._plan and self._index > 0:
            self._take(now)
        self._began = now
        if self._index == ROUNDS * len(self._plans):
            self._decide(layers, most)
            if self.is_done:
                return
        self._plan = self._plans[max(self._index, 0) % len(self._plans)]
        self._index += 1
        self.ways = self._ways_of(self._plan, layers)

    def took(self, bucket: Bucket, began: float, ended: float) -> None:
        """A bucket of these layers was exchanged; may be called by any thread."""
        with self._lock:
            self._spans.append((bucket, began, ended))

    def _take(self, now: float) -> None:
        self._steps[self._plan].append(now - self._began)
        with self._lock:
            spans, self._spans = self._spans, []
        free = 0.0
        for bucket, began, ended in sorted(spans, key=lambda span: span[2]):
            # A bucket waits until the one before it is through.
            self._buckets[bucket, self._plan].append(ended - max(began, free))
            free = ended

    def _decide(self, layers: dict[int, int], most: Callable[[Tensor], Tensor]) -> None:
        medians = [statistics.median(self._steps[plan]) for plan in self._plans]
        steps = dict(
            zip(self._plans, most(torch.tensor(medians, dtype=torch.float64)).tolist(), strict=True)
        )
        best = _fastest(steps)
        if self._by_bucket and MIXED not in steps:
            self._mixture = self._mix(most)
            if len(set(self._mixture.values())) > 1:
                # The best pure way takes turns with it, on fresh times.
                self._plans, self._index = [best, MIXED], 0
                self._steps.clear()
                self._told = steps
                return
        told = {**self._told, **steps}
        self.is_done, self.ways = True, self._ways_of(best, layers)
        shares = {way: sum(numel for layer, numel in layers.items() if self.ways[layer] == way)
                  for way in WAYS}  # fmt: skip
        total = max(sum(shares.values()), 1)
        parts = [f'{way} {share / total:.0%}' for way, share in shares.items() if share]
        times = [f'{plan} {1e3 * seconds:.0f}' for plan, seconds in told.items()]
        self._say(
            f'TernGrad: gradients travel as {", ".join(parts)} of their elements; ms a step: '
            f'{", ".join(times)}'
        )

    def _mix(self, most: Callable[[Tensor], Tensor]) -> dict[int, str]:
        found = {bucket for bucket, _ in self._buckets}
        # In the same order on all ranks.
        buckets = sorted(b for b in found if all((b, way) in self._buckets for way in WAYS))
        medians = [
            statistics.median(self._buckets[bucket, way]) for bucket in buckets for way in WAYS
        ]
        values = most(torch.tensor(medians, dtype=torch.float64)).view(-1, len(WAYS)).tolist()
        return {
            layer: _fastest(dict(zip(WAYS, row, strict=True)))
            for bucket, row in zip(buckets, values, strict=True)
            for layer in bucket
        }

    def _ways_of(self, plan: str, layers: dict[int, int]) -> dict[int, str]:
        if plan != MIXED:
            return dict.fromkeys(layers, plan)
        return {layer: self._mixture.get(layer, 'float32') for layer in layers}


def _fastest(times: dict[str, float]) -> str:
    """The most exact of those that are nearly the fastest; a mixture counts as the least exact."""
    order = [*WAYS, MIXED]
    chosen = ''
    for name in sorted(times, key=order.index):
        if not chosen or times[name] < times[chosen] * (1 - GAIN):
            chosen = name
    return chosen
