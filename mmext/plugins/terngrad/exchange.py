"""One ternary exchange: which layers, which random numbers, which transport."""

import math
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmext.engine import rng

from . import coding
from .feedback import Feedback, nearest, nearest_scalers
from .functional import check_clip_factor, check_gradient, clip_limits, scalers, ternarize
from .packing import check_workers, pack_ternary, sum_dtype, unpack_ternary
from .requantize import requantize
from .transport import Wire, add_up, check_transport, is_coded

_PLUGIN = 'terngrad'
_ROUNDING = 'terngrad.requantize'
#: Default of ``min_numel``: biases and norms of networks up to 2,048 wide stay float. They are .2 %
#: of ResNet-50, and ternarising them saves next to nothing. (The author's AlexNet: 9,217.)
MIN_NUMEL = 2049


@dataclass
class Measures:
    """What one rank saw in one update, over its ternary layers."""

    codes: int = 0
    nonzero: list[Tensor] = field(default_factory=list)
    energy: list[Tensor] = field(default_factory=list)
    ternary_energy: list[Tensor] = field(default_factory=list)

    def add(self, codes: Tensor, scale: Tensor, grad: Tensor) -> None:
        """Take one layer in."""
        nonzero = torch.count_nonzero(codes)
        self.codes += codes.numel()
        self.nonzero.append(nonzero)
        self.ternary_energy.append(nonzero * scale.double().square())
        self.energy.append(torch.linalg.vector_norm(grad.float()).double().square())

    def summary(self) -> dict[str, float]:
        """Share of zeros and ``|s * codes| / |g|``; nothing if there was no ternary layer."""
        if not self.codes:
            return {}
        nonzero = float(torch.stack(self.nonzero).sum())
        found = {'zeros': 1 - nonzero / self.codes}
        energy = float(torch.stack(self.energy).sum())
        if energy > 0 and math.isfinite(energy):
            ternary = float(torch.stack(self.ternary_energy).sum())
            found['norm_inflation'] = math.sqrt(ternary / energy)
        return found


class Exchange:
    """Averages the gradients of workers, most of them as ternary codes.

    Args are those of :class:`TernGradOptimWrapper`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        clip_factor: float | None = 2.5,
        share_scaler: bool = True,
        min_numel: int = MIN_NUMEL,
        keep_float: Sequence[str] = (),
        transport: str = 'ternary',
        requantize: bool = False,
        error_feedback: bool = False,
    ) -> None:
        check_clip_factor(clip_factor)
        check_transport(transport)
        if requantize and not share_scaler:
            raise ValueError(
                'requantize=True rounds sums of codes, which need one scaler for all; set '
                'share_scaler=True'
            )
        if min_numel < 1:
            raise ValueError(f'min_numel={min_numel} must be at least 1')
        if isinstance(keep_float, str):
            raise ValueError(
                f'keep_float must be a list of regular expressions, got {keep_float!r}'
            )
        self.clip_factor = clip_factor
        self.share_scaler = share_scaler
        self.min_numel = min_numel
        self.keep_float = tuple(keep_float)
        self.transport = transport
        self.requantize = requantize
        self.feedback = Feedback() if error_feedback else None
        self.sent = 0.0
        self.measures: Measures | None = None
        #: 'float32', 'bfloat16' or 'ternary' by layer, where it was measured which is fastest.
        self.ways: dict[int, str] = {}
        #: False while they are tried.
        self.has_chosen = False
        self._counting = threading.Lock()
        self._layers: dict[int, tuple[int, bool]] = {}
        self._seed, self._update, self._repeat, self.is_ternary = 0, 0, 0, True

    def attach(self, model: nn.Module) -> None:
        """Learn the layers of ``model``: their order and which stay float.

        Raises:
            ValueError: A pattern of ``keep_float`` matches no parameter.
            TypeError: A layer has sparse or complex gradients and is not kept float.
        """
        named = [
            (name.removeprefix('module.'), parameter)
            for name, parameter in model.named_parameters()
        ]
        names = [name for name, _ in named]
        for pattern in self.keep_float:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f'keep_float={pattern!r} matches no parameter; names are {", ".join(names[:5])}'
                    f' ... {names[-1] if names else ""}'
                )
        for name, module in model.named_modules():
            if getattr(module, 'sparse', False) and isinstance(
                module, nn.Embedding | nn.EmbeddingBag
            ):
                raise TypeError(
                    f'{name} has sparse gradients, which TernGrad cannot ternarize; set '
                    'sparse=False in it'
                )
        for name, parameter in named:
            keep = any(re.search(pattern, name) for pattern in self.keep_float)
            ternary = not keep and parameter.numel() >= self.min_numel
            if ternary:
                check_gradient(parameter)
            self._layers.setdefault(id(parameter), (len(self._layers), ternary))

    def begin(
        self,
        seed: int,
        update: int,
        repeat: int,
        ternary: bool,
        measure: bool,
        loss_scale: float = 1.0,
    ) -> None:
        """Set what the next exchange is keyed by.

        Args:
            seed: Seed of the run.
            update: Number of the optimizer step.
            repeat: Number of the exchange within it.
            ternary: False exchanges floats (warm-up).
            measure: Whether to collect :attr:`measures`.
            loss_scale: What the gradients are multiplied with (mixed precision).
        """
        self._seed, self._update, self._repeat, self.is_ternary = seed, update, repeat, ternary
        self.sent = 0.0
        self.measures = Measures() if measure and ternary else None
        if self.feedback is not None:
            self.feedback.loss_scale = loss_scale

    def reduce(
        self, parameters: Sequence[nn.Parameter], grads: Sequence[Tensor], wire: Wire
    ) -> None:
        """Replace gradients by their mean over the ranks of ``wire``, in place.

        Every rank must call it for the same parameters in the same order.
        """
        parts: dict[str, tuple[list[Tensor], list[int]]] = {}
        for parameter, grad in zip(parameters, grads, strict=True):
            index, way = self.layer(parameter)
            found = parts.setdefault(way, ([], []))
            found[0].append(grad)
            found[1].append(index)
        before = wire.sent
        for way, (some, keys) in sorted(parts.items()):
            if way == 'ternary':
                self._reduce_ternary(some, keys, wire)
            else:
                self.restore(some, keys)
                flat = torch.cat([grad.reshape(-1) for grad in some])
                flat = flat.to(torch.bfloat16 if way == 'bfloat16' else flat.dtype)
                _scatter(wire.all_reduce(flat.div_(wire.n_ranks)), some)
        self.count(wire.sent - before)

    def count(self, n_bytes: float) -> None:
        """Add to :attr:`sent`, from any thread."""
        with self._counting:
            self.sent += n_bytes

    def state_dict(self) -> dict[str, Any]:
        """What the next exchange depends on besides its keys: choices and errors, by layer."""
        state: dict[str, Any] = {}
        if self.has_chosen:
            state['ways'] = dict(self.ways)
        if self.feedback is not None:
            state['errors'] = {worker: dict(e) for worker, e in self.feedback.errors.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; settings that were off in the checkpoint start afresh."""
        if self.transport == 'auto' and 'ways' in state:
            self.ways, self.has_chosen = dict(state['ways']), True
        if self.feedback is not None:
            self.feedback.errors = {w: dict(e) for w, e in state.get('errors', {}).items()}

    def restore(self, grads: Sequence[Tensor], keys: Sequence[int]) -> None:
        """Add to gradients that travel as floats what earlier ternary ones have left out."""
        if self.feedback is not None:
            for grad, key in zip(grads, keys, strict=True):
                self.feedback.add(0, key, grad)
                self.feedback.forget(0, key)

    def _reduce_ternary(self, grads: list[Tensor], keys: list[int], wire: Wire) -> None:
        scales, limits = self._statistics(grads, [(0, key) for key in keys])
        if self.share_scaler:
            wire.all_reduce(scales, dist.ReduceOp.MAX)
        codes = self._encode(grads, keys, scales, limits, wire.rank, 0)
        if self.share_scaler:
            sums = add_up(codes, wire, self._rounding(wire.rank, keys[0], codes.device))
            for part, scale, grad in zip(_parts(sums, grads), scales, grads, strict=True):
                _write_mean(part, scale, wire.n_ranks, grad)
            return
        head = scales.view(torch.uint8)
        coded = is_coded(codes.numel(), wire)
        payload = torch.cat([head, (coding.shortened if coded else pack_ternary)(codes)])
        rows = (
            wire.all_to_all([payload] * wire.n_ranks, None) if coded else wire.all_gather(payload)
        )
        mean = torch.zeros(codes.numel(), device=codes.device)
        for row in rows:
            own_scales = row[: head.numel()].clone().view(torch.float32)
            restore = coding.restored if coded else unpack_ternary
            own_codes = restore(row[head.numel() :], codes.numel())
            for total, part, scale in zip(
                _parts(mean, grads), _parts(own_codes, grads), own_scales, strict=True
            ):
                _add_scaled(total, part, scale)
        _scatter(mean.div_(wire.n_ranks), grads)

    def _statistics(
        self, grads: Sequence[Tensor], places: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Scalers and limits.

        Args:
            grads: Of n layers; what they left out before is added in place.
            places: Worker and layer of each.
        """
        if self.feedback is None:
            limits = clip_limits(grads, self.clip_factor)
            return scalers(grads, limits), limits
        for (worker, key), grad in zip(places, grads, strict=True):
            self.feedback.add(worker, key, grad)
        scales = nearest_scalers(grads)
        return scales, torch.full_like(scales, math.inf)

    def average(
        self, parameters: Sequence[nn.Parameter], workers: Sequence[Sequence[Tensor | None]]
    ) -> list[Tensor | None]:
        """Mean of the gradients of virtual workers, as :meth:`reduce` gives it to real ranks.

        Args:
            parameters: k layers.
            workers: For each of N workers, its k gradients; None counts as zeros.

        Returns:
            k means; None where no worker has a gradient.

        Raises:
            ValueError: More workers than the codes allow.
        """
        if self.share_scaler:
            check_workers(len(workers))
        result: list[Tensor | None] = []
        for parameter, column in zip(parameters, zip(*workers, strict=True), strict=True):
            index, way = self.layer(parameter)
            present = next((grad for grad in column if grad is not None), None)
            if present is None:
                result.append(None)
                continue
            grads = [torch.zeros_like(parameter) if grad is None else grad for grad in column]
            if way == 'ternary':
                result.append(self._average_layer(grads, index))
            else:
                result.append(torch.stack([grad / len(workers) for grad in grads]).sum(0))
        return result

    def _average_layer(self, grads: list[Tensor], key: int) -> Tensor:
        n_workers = len(grads)
        if self.feedback is not None:
            grads = [grad.clone() for grad in grads]
        scales, limits = self._statistics(grads, [(w, key) for w in range(n_workers)])
        if self.share_scaler:
            scales = scales.max().expand_as(scales)
        mean = torch.empty_like(grads[0])
        total = torch.zeros(
            mean.numel(),
            dtype=sum_dtype(n_workers) if self.share_scaler else torch.float32,
            device=mean.device,
        )
        for worker, grad in enumerate(grads):
            place = slice(worker, worker + 1)
            codes = self._encode([grad], [key], scales[place], limits[place], worker, worker)
            if self.share_scaler:
                total.add_(codes)
            else:
                _add_scaled(total, codes, scales[worker])
        if not self.share_scaler:
            return mean.copy_(total.div_(n_workers).view_as(mean))
        rounding = self._rounding(0, key, mean.device)
        if rounding is not None:
            levels, step = requantize(total, rounding)
            total = levels * step
        _write_mean(total, scales[0], n_workers, mean)
        return mean

    def _rounding(self, rank: int, key: int, device: torch.device) -> torch.Generator | None:
        """Draws of a rank's share of the sums of one bucket."""
        if not self.requantize:
            return None
        offset = self._repeat * len(self._layers)
        return rng.generator(self._seed, _ROUNDING, rank, self._update, offset + key, device)

    def layer(self, parameter: nn.Parameter) -> tuple[int, str]:
        """Number of a layer, and how it travels now: 'float32', 'bfloat16' or 'ternary'."""
        # A parameter of the optimizer that belongs to no model seen so far stays float.
        index, ternary = self._layers.get(id(parameter), (0, False))
        way = self.ways.get(index, 'ternary')
        if not self.is_ternary or (way == 'ternary' and not ternary):
            way = 'float32'
        return index, way

    def _encode(
        self,
        grads: Sequence[Tensor],
        keys: Sequence[int],
        scales: Tensor,
        limits: Tensor,
        worker: int,
        place: int,
    ) -> Tensor:
        """Codes of several layers one after the other; the key of a layer decides its draws.

        Args:
            grads: Gradients.
            keys: Of the layers.
            scales: Of the codes.
            limits: What the gradients are clipped to.
            worker: Whose draws.
            place: Whose error feedback; 0 for a real rank, which has only its own.
        """
        numel = sum(grad.numel() for grad in grads)
        codes = torch.empty(numel, dtype=torch.int8, device=scales.device)
        offset = self._repeat * len(self._layers)
        for grad, key, part, scale, limit in zip(
            grads, keys, _parts(codes, grads), scales, limits, strict=True
        ):
            if self.feedback is None:
                generator = rng.generator(
                    self._seed, _PLUGIN, worker, self._update, offset + key, grad.device
                )
                ternarize(grad, scale, generator, limit, out=part)
            else:
                nearest(grad, scale, out=part)
                self.feedback.keep(place, key, grad, part, scale)
            if self.measures is not None:
                self.measures.add(part, scale, grad)
        return codes


def _parts(flat: Tensor, grads: Sequence[Tensor]) -> Iterable[Tensor]:
    return flat.split([grad.numel() for grad in grads])


def _scatter(flat: Tensor, grads: Sequence[Tensor]) -> None:
    for part, grad in zip(_parts(flat, grads), grads, strict=True):
        grad.copy_(part.view_as(grad))


def _write_mean(sums: Tensor, scale: Tensor, n_workers: int, out: Tensor) -> None:
    """``out = s * sums / N``. An infinite scaler gives 0 * inf = NaN, so every rank sees it."""
    if out.dtype == torch.float32:
        out.copy_(sums.view_as(out)).mul_(scale / n_workers)
    else:
        out.copy_((sums.float() * (scale / n_workers)).view_as(out))


def _add_scaled(total: Tensor, codes: Tensor, scale: Tensor) -> None:
    """Add one worker's gradient; the order of the workers is that of the ranks."""
    total.add_(codes.float().mul_(scale))
