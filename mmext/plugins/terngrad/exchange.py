"""One ternary exchange: which layers, which random numbers, which transport."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmext.engine import rng

from .functional import check_clip_factor, check_gradient, clip_limits, scalers, ternarize
from .packing import check_workers, pack_ternary, sum_dtype, unpack_ternary
from .transport import (
    add_up,
    check_packing,
    check_transport,
    choose,
    gather_bytes,
    sent_bytes,
    wire_bits,
)

_PLUGIN = 'terngrad'


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
        clip_factor: float | None,
        share_scaler: bool,
        min_numel: int,
        keep_float: Sequence[str],
        transport: str,
        packing: str,
    ) -> None:
        check_clip_factor(clip_factor)
        check_transport(transport, share_scaler)
        check_packing(packing)
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
        self.packing = packing
        self.sent = 0.0
        self.measures: Measures | None = None
        self._layers: dict[int, tuple[int, bool]] = {}
        self._seed, self._update, self._repeat, self._ternary = 0, 0, 0, True

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

    def begin(self, seed: int, update: int, repeat: int, ternary: bool, measure: bool) -> None:
        """Set what the next exchange is keyed by.

        Args:
            seed: Seed of the run.
            update: Number of the optimizer step.
            repeat: Number of the exchange within it.
            ternary: False exchanges floats (warm-up).
            measure: Whether to collect :attr:`measures`.
        """
        self._seed, self._update, self._repeat, self._ternary = seed, update, repeat, ternary
        self.sent = 0.0
        self.measures = Measures() if measure and ternary else None

    def reduce(
        self,
        parameters: Sequence[nn.Parameter],
        grads: Sequence[Tensor],
        group: dist.ProcessGroup | None,
    ) -> None:
        """Replace gradients by their mean over the ranks of ``group``, in place.

        Every rank must call it for the same parameters in the same order.
        """
        n_ranks = dist.get_world_size(group)
        floats, ternary, keys = [], [], []
        for parameter, grad in zip(parameters, grads, strict=True):
            index, is_ternary = self._layer(parameter)
            if is_ternary:
                ternary.append(grad)
                keys.append(index)
            else:
                floats.append(grad)
        if floats:
            flat = torch.cat([grad.reshape(-1) for grad in floats]).div_(n_ranks)
            dist.all_reduce(flat, group=group)
            self.sent += flat.numel() * flat.element_size() * wire_bits('float32', n_ranks) / 32
            _scatter(flat, floats)
        if not ternary:
            return
        limits = clip_limits(ternary, self.clip_factor)
        scales = scalers(ternary, limits)
        if self.share_scaler:
            dist.all_reduce(scales, op=dist.ReduceOp.MAX, group=group)
            self.sent += scales.numel() * wire_bits('float32', n_ranks) / 8
        codes = self._encode(ternary, keys, scales, limits, dist.get_rank(group))
        if self.share_scaler:
            transport = self.transport
            if transport == 'auto':
                transport = choose(n_ranks, dist.get_backend(group))
            sums = add_up(transport, codes, group, self.packing)
            self.sent += sent_bytes(transport, codes.numel(), n_ranks, self.packing)
            for part, scale, grad in zip(_parts(sums, ternary), scales, ternary, strict=True):
                _write_mean(part, scale, n_ranks, grad)
            return
        head = 4 * scales.numel()
        payload = torch.cat([scales.view(torch.uint8), pack_ternary(codes, self.packing)])
        self.sent += (n_ranks - 1) * payload.numel()
        workers = (
            (row[:head].clone().view(torch.float32), row[head:])
            for row in gather_bytes(payload, group)
        )
        mean = torch.zeros(codes.numel(), device=codes.device)
        for own_scales, packed in workers:
            own_codes = unpack_ternary(packed, codes.numel(), self.packing)
            for total, part, scale in zip(
                _parts(mean, ternary), _parts(own_codes, ternary), own_scales, strict=True
            ):
                _add_scaled(total, part, scale)
        _scatter(mean.div_(n_ranks), ternary)

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
            index, is_ternary = self._layer(parameter)
            present = next((grad for grad in column if grad is not None), None)
            if present is None:
                result.append(None)
                continue
            grads = [torch.zeros_like(parameter) if grad is None else grad for grad in column]
            if is_ternary:
                result.append(self._average_layer(grads, index))
            else:
                result.append(torch.stack([grad / len(workers) for grad in grads]).sum(0))
        return result

    def _average_layer(self, grads: list[Tensor], key: int) -> Tensor:
        n_workers = len(grads)
        limits = clip_limits(grads, self.clip_factor)
        scales = scalers(grads, limits)
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
            codes = self._encode([grad], [key], scales[place], limits[place], worker)
            if self.share_scaler:
                total.add_(codes)
            else:
                _add_scaled(total, codes, scales[worker])
        if self.share_scaler:
            _write_mean(total, scales[0], n_workers, mean)
        else:
            mean.copy_(total.div_(n_workers).view_as(mean))
        return mean

    def _layer(self, parameter: nn.Parameter) -> tuple[int, bool]:
        # A parameter of the optimizer that belongs to no model seen so far stays float.
        index, ternary = self._layers.get(id(parameter), (0, False))
        return index, ternary and self._ternary

    def _encode(
        self,
        grads: Sequence[Tensor],
        keys: Sequence[int],
        scales: Tensor,
        limits: Tensor,
        worker: int,
    ) -> Tensor:
        """Codes of several layers one after the other; the key of a layer decides its draws."""
        numel = sum(grad.numel() for grad in grads)
        codes = torch.empty(numel, dtype=torch.int8, device=scales.device)
        offset = self._repeat * len(self._layers)
        for grad, key, part, scale, limit in zip(
            grads, keys, _parts(codes, grads), scales, limits, strict=True
        ):
            generator = rng.generator(
                self._seed, _PLUGIN, worker, self._update, offset + key, grad.device
            )
            ternarize(grad, scale, generator, limit, out=part)
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
