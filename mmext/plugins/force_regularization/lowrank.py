"""Decompose the convolutions of a trained model into low-rank pairs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .functional import METHODS, break_even_rank, rank_at, spectrum, unfold
from .layers import matching
from .measure import (
    Call,
    Forward,
    forward_of,
    layer_ms,
    macs,
    macs_per_rank,
    model_ms,
    trace,
)
from .pair import LowRankConv, low_rank_conv, swap
from .report import LayerReport, Report
from .selection import Option, candidate_ranks, choose, log_loss, round_rank

_GRID = 6


@torch.no_grad()
def decompose(
    model: nn.Module,
    energy: float | None = None,
    *,
    ranks: Mapping[str, int] | None = None,
    target_macs: float | None = None,
    target_latency: float | None = None,
    method: str = 'pca',
    round_to: int = 8,
    skip: Sequence[str] = (),
    inputs: Tensor | Forward | None = None,
    faster_only: bool = False,
    allow_growth: bool = False,
    rounds: int = 10,
) -> Report:
    """Replace convolutions by two thinner ones, K x C x k x k and N x K x 1 x 1 (or k x 1, 1 x k).

    A layer is left alone where the pair would not be cheaper: from the break-even rank
    ``N C k^2 / (C k^2 + N)`` on, and always for depthwise convolutions. Grouped ones are factorised
    per group, all groups to one rank. Subclasses of Conv2d (weight standardisation, deformable
    ones) and layers with hooks are left alone, too, since they do not use their weight as it is.

    One goal: ``energy`` is the paper's; the targets are ours.

    Args:
        model: Changed in place. Its parameters are new: build the optimizer afterwards.
        energy: Share of the squared Frobenius norm that every layer keeps, in (0, 1]; 0.95 where no
            goal is given.
        ranks: Name of a convolution -> K (per group).
        target_macs: MACs of the result: a share of the model's in (0, 1), or more than 1 for their
            number per image (needs ``inputs``). The ranks chosen keep the largest product of the
            layers' energies (arXiv 1505.06798).
        target_latency: Latency as a share of the model's, in (0, 1). Layers are timed at up to 6
            ranks each, and the choice is made among what was measured. Needs ``inputs``.
        method: ``'pca'``, ``'svd'`` (same product, lengths shared by both factors), ``'kmeans'``
            (centroids; not for targets) or ``'spatial'`` (Tai et al.).
        round_to: Ranks are rounded up to multiples of this, >= 1, where that stays below
            break-even. Multiples of 8 run faster than the ranks between them. Not for ``ranks``.
        skip: Regular expressions of names to leave alone.
        inputs: Batch for ``model(inputs)``, or a function of the model that runs one forward. With
            it, MACs count every use of a layer and latency is measured; without, each layer counts
            at one output position.
        faster_only: Keep a layer as it is where its pair is measured to be slower. Needs
            ``inputs``.
        allow_growth: Decompose from the break-even rank on, too: an exact re-parameterisation at
            full rank.
        rounds: Timed runs per layer and rank, >= 1; the shortest counts.

    Returns:
        Report: Per layer and in total.

    Raises:
        ValueError: No or several goals, an argument out of its range, an unknown layer, a rank of
            ``ranks`` from the break-even on, or a target out of reach.

    Reference: arXiv 1703.09746.

    Example:
        >>> import torch
        >>> from mmext.functional import decompose
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU())
        >>> filters, mixture = torch.randn(2, 144), torch.randn(32, 2)
        >>> model[0].weight.data = (mixture @ filters).reshape(32, 16, 3, 3)  # of rank 2
        >>> report = decompose(model, energy=0.95, round_to=2)
        >>> report.ranks, report.params_before, report.params
        ({'0': 2}, 4640, 384)
    """
    goals = {
        'energy': energy,
        'ranks': ranks,
        'target_macs': target_macs,
        'target_latency': target_latency,
    }
    given = [name for name, value in goals.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f'{" and ".join(given)} are given; choose one goal')
    if energy is None and not given:
        energy = 0.95
    _check(energy, target_macs, target_latency, method, round_to, rounds)
    if inputs is None and (target_latency is not None or faster_only):
        raise ValueError('target_latency and faster_only measure: give inputs')
    if isinstance(model, nn.Conv2d):
        raise ValueError('model is a single convolution; use low_rank_conv')

    calls = None if inputs is None else trace(model, forward_of(inputs))
    report = Report(method)
    convs = _survey(model, method, skip, calls, report)
    job = _Job(model, convs, calls, method, round_to, rounds, allow_growth)
    report.macs_before, report.params_before = job.totals()
    if ranks is not None:
        job.take(ranks)
    elif energy is not None:
        job.take_energy(energy)
    elif target_macs is not None:
        job.take_macs(target_macs, report.macs_before)
    elif target_latency is not None:
        job.take_latency(target_latency, forward_of(inputs))
    forward = None if inputs is None else forward_of(inputs)
    pairs = job.build(forward, faster_only)
    if forward is not None:
        report.ms_before, report.ms = model_ms(model, forward, [{}, pairs], rounds)
    swap(model, pairs)
    changed = [layer for layer, _ in convs.values()]
    saved = sum(layer.params_before - layer.params for layer in changed)
    report.params = report.params_before - saved
    report.macs = report.macs_before - sum(layer.macs_before - layer.macs for layer in changed)
    return report


def _check(energy, target_macs, target_latency, method, round_to, rounds) -> None:
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f'energy={energy} must be in (0, 1]')
    if target_macs is not None and not target_macs > 0:
        raise ValueError(f'target_macs={target_macs} must be above 0')
    if target_latency is not None and not 0 < target_latency < 1:
        raise ValueError(f'target_latency={target_latency} must be in (0, 1), a share')
    if method not in METHODS:
        raise ValueError(f'method={method!r} is unknown; choose one of {list(METHODS)}')
    if method == 'kmeans' and (target_macs is not None or target_latency is not None):
        raise ValueError("method='kmeans' needs energy or ranks as its goal")
    if round_to < 1 or rounds < 1:
        raise ValueError(f'round_to={round_to} and rounds={rounds} must be at least 1')


_Calls = Mapping[nn.Module, list[Call]]
_Convs = dict[str, tuple[LayerReport, nn.Conv2d]]


def _survey(
    model: nn.Module, method: str, skip: Sequence[str], calls: _Calls | None, report: Report
) -> _Convs:
    """Describe every convolution; return those that can be decomposed."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    skipped = matching(names, skip, 'skip')
    in_pairs = {
        part
        for pair in model.modules()
        if isinstance(pair, LowRankConv)
        for part in pair.children()
    }
    found: _Convs = {}
    for name, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        matrices = unfold(conv.weight, conv.groups, method == 'spatial')
        rows, columns = matrices.shape[1:]
        layer = LayerReport(
            name,
            tuple(conv.weight.shape),
            conv.groups,
            rows if method == 'kmeans' else min(rows, columns),
            break_even_rank(rows, columns),
            params_before=sum(p.numel() for p in conv.parameters()),
        )
        layer.params = layer.params_before
        layer.macs = layer.macs_before = macs(conv, _uses(conv, calls))
        report.layers.append(layer)
        if name in skipped:
            layer.kept = 'asked to skip'
        elif conv in in_pairs:
            layer.kept = 'part of a low-rank pair'
        elif not _is_plain(conv):
            layer.kept = f'{type(conv).__name__} does not use its weight as it is'
        elif conv.out_channels == conv.groups:
            layer.kept = 'depthwise' if conv.groups > 1 else 'one filter'
        elif method == 'spatial' and min(conv.kernel_size) == 1:
            layer.kept = 'no kernel to split'
        elif not conv.weight.any():
            layer.kept = 'weight is zero'
        elif calls is not None and conv not in calls:
            layer.kept = 'not used by the forward'
        else:
            found[name] = layer, conv
    return found


def _is_plain(conv: nn.Conv2d) -> bool:
    # mmcv's 'Conv' only adds empty batches.
    wrapper = type(conv).__module__ == 'mmcv.cnn.bricks.wrappers'
    hooked = conv._forward_pre_hooks or conv._forward_hooks
    return (type(conv) is nn.Conv2d or wrapper) and not hooked


def _uses(conv: nn.Module, calls: _Calls | None) -> list[Call]:
    one_position = Call((1, 1, 1, 1), (1, 1, 1, 1))
    return [one_position] if calls is None else calls.get(conv, [])


class _Job:
    """The choice of ranks for one model."""

    def __init__(
        self,
        model: nn.Module,
        convs: _Convs,
        calls: _Calls | None,
        method: str,
        round_to: int,
        rounds: int,
        allow_growth: bool,
    ) -> None:
        self.model = model
        self.convs = convs
        self.calls = calls
        self.method = method
        self.round_to = round_to
        self.rounds = rounds
        self.allow_growth = allow_growth

    def totals(self) -> tuple[int, int]:
        """MACs and parameters of all convolutions and linear layers."""
        layers = [m for m in self.model.modules() if hasattr(m, 'weight') and _counts(m)]
        params = sum(p.numel() for m in layers for p in m.parameters(recurse=False))
        return sum(macs(m, _uses(m, self.calls)) for m in layers), params

    def limit(self, layer: LayerReport) -> float:
        """Ranks from here on are refused."""
        return layer.full_rank + 1 if self.allow_growth else layer.break_even

    def spectrum(self, conv: nn.Conv2d) -> Tensor:
        return spectrum(unfold(conv.weight, conv.groups, self.method == 'spatial'))

    def take(self, ranks: Mapping[str, int]) -> None:
        """The ranks of a table."""
        for name, rank in ranks.items():
            if name not in self.convs:
                raise ValueError(
                    f'ranks: {name!r} cannot be decomposed; there are {", ".join(self.convs)}'
                )
            layer = self.convs[name][0]
            if not 1 <= rank <= layer.full_rank:
                raise ValueError(f'ranks: {name} has ranks 1 to {layer.full_rank}, not {rank}')
            if rank >= self.limit(layer):
                raise ValueError(
                    f'ranks: {rank} for {name} makes it no cheaper: its break-even rank is '
                    f'{layer.break_even:.1f}; lower it, leave the layer out or allow_growth=True'
                )
            layer.rank = rank
        self._explain('not in ranks')

    def take_energy(self, energy: float) -> None:
        """The least ranks that keep ``energy``."""
        for layer, conv in self.convs.values():
            rank = (
                self._kmeans_rank(conv, energy, layer)
                if self.method == 'kmeans'
                else rank_at(self.spectrum(conv), energy)
            )
            layer.rank = round_rank(rank, self.round_to, self.limit(layer))
            if layer.rank is None:
                layer.kept = f'rank {rank} is not below break-even'
            else:
                layer.rank = min(layer.rank, layer.full_rank)

    def take_macs(self, target: float, before: int) -> None:
        """The ranks that lose least at a number of MACs."""
        if target > 1 and self.calls is None:
            raise ValueError('target_macs as a number needs inputs; a share in (0, 1) does not')
        budget = target if target > 1 else target * before
        options = {}
        for name, (layer, conv) in self.convs.items():
            uses = _uses(conv, self.calls)
            unit = macs_per_rank(conv, uses, self.method == 'spatial')
            energies = self.spectrum(conv)
            options[name] = [Option(None, layer.macs_before, 0.0)] + [
                Option(rank, rank * unit, log_loss(energies, rank))
                for rank in candidate_ranks(self.limit(layer), self.round_to)
            ]
        self._choose(options, budget, before - self._now('macs_before'), 'target_macs')

    def take_latency(self, target: float, forward: Forward) -> None:
        """The ranks that lose least at a measured latency."""
        # Form 0 is the model as it is, form i has every layer at the i-th of its ranks.
        spatial = self.method == 'spatial'
        grid: dict[str, list[int]] = {
            name: candidate_ranks(self.limit(layer), self.round_to, _GRID)
            for name, (layer, _) in self.convs.items()
        }
        forms: list[dict[nn.Module, nn.Module]] = [
            {conv: conv for _, conv in self.convs.values()},
            *({} for _ in range(_GRID)),
        ]
        for name, (_, conv) in self.convs.items():
            for form, rank in zip(forms[1:], grid[name], strict=False):
                form[conv] = LowRankConv(conv, rank, spatial)
        times = layer_ms(self.model, forward, forms, self.rounds)
        options = {}
        for name, (_, conv) in self.convs.items():
            energies = self.spectrum(conv)
            options[name] = [Option(None, times[0][conv], 0.0)] + [
                Option(rank, ms[conv], log_loss(energies, rank))
                for rank, ms in zip(grid[name], times[1:], strict=False)
            ]
        # What is no candidate keeps its time.
        fixed = times[0][self.model]
        before = fixed + sum(of_layer[0].cost for of_layer in options.values())
        self._choose(options, target * before, fixed, 'target_latency')

    def build(self, forward: Forward | None, faster_only: bool) -> dict[nn.Module, nn.Module]:
        """Make the pairs of the chosen ranks and fill in their part of the report."""
        pairs: dict[nn.Module, nn.Module] = {
            conv: low_rank_conv(conv, layer.rank, self.method)
            for layer, conv in self.convs.values()
            if layer.rank is not None
        }
        if forward is not None:
            unchanged = {conv: conv for conv in pairs}
            times = layer_ms(self.model, forward, [unchanged, pairs], self.rounds)
            for layer, conv in self.convs.values():
                if conv in pairs:
                    layer.ms_before, layer.ms = (form[conv] for form in times)
        for layer, conv in self.convs.values():
            pair = pairs.get(conv)
            if not isinstance(pair, LowRankConv):
                continue
            if faster_only and layer.ms and layer.ms_before and layer.ms >= layer.ms_before:
                layer.kept = f'rank {layer.rank} was slower ({layer.ms:.3g} ms)'
                layer.rank, layer.ms = None, layer.ms_before
                del pairs[conv]
                continue
            uses = _uses(conv, self.calls)
            layer.params = sum(p.numel() for p in pair.parameters())
            layer.macs = pair.rank * macs_per_rank(conv, uses, self.method == 'spatial')
            layer.eps = _distance(conv, pair, self.method)
        return pairs

    def _choose(
        self, options: Mapping[str, Sequence[Option]], budget: float, fixed: float, argument: str
    ) -> None:
        try:
            chosen = choose(options, budget - fixed)
        except ValueError as error:
            raise ValueError(
                f'{argument} is out of reach: {fixed:.6g} belongs to what is not decomposed, and '
                f'for the rest {error}; lower round_to, skip less or raise the target'
            ) from error
        for name, option in chosen.items():
            self.convs[name][0].rank = option.rank
        self._explain('its budget was better spent elsewhere')

    def _explain(self, reason: str) -> None:
        for layer, _ in self.convs.values():
            if layer.rank is None:
                layer.kept = reason

    def _now(self, what: str) -> int:
        return sum(getattr(layer, what) for layer, _ in self.convs.values())

    def _kmeans_rank(self, conv: nn.Conv2d, energy: float, layer: LayerReport) -> int:
        """Least number of centroids that keeps ``energy``, by bisection."""
        low, high = 1, conv.out_channels // conv.groups
        while low < high:
            middle = (low + high) // 2
            pair = low_rank_conv(conv, middle, 'kmeans')
            if _distance(conv, pair, 'kmeans') <= 1 - energy:
                high = middle
            else:
                low = middle + 1
        return low


def _counts(module: nn.Module) -> bool:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return isinstance(module, (*kinds, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))


def _distance(conv: nn.Conv2d, pair: LowRankConv, method: str) -> float:
    """Share of the squared norm by which the pair's product differs from the weight."""
    groups, spatial = conv.groups, method == 'spatial'
    exact = unfold(conv.weight, groups, spatial).double()
    basis, mix = pair.basis.weight.double(), pair.mix.weight.double()
    if spatial:
        left = basis.reshape(groups, pair.rank, -1).mT
        right = mix.unflatten(0, (groups, -1)).transpose(1, 2).reshape(groups, pair.rank, -1)
    else:
        left = mix.reshape(groups, -1, pair.rank)
        right = basis.reshape(groups, pair.rank, -1)
    return float((exact - left @ right).square().sum() / exact.square().sum())
