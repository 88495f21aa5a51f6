"""Which parameters get noise, and the exact way back."""

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmext.engine.shards import shard_of
from mmext.engine.unwrap import unwrapped

# torch has RMSNorm since 2.4.
_RMS_NORM = (nn.RMSNorm,) if hasattr(nn, 'RMSNorm') else ()
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, *_RMS_NORM)


def select_parameters(
    model: nn.Module,
    exclude_norm: bool = True,
    exclude: Sequence[str] = (),
    among: Iterable[Tensor] | None = None,
) -> list[nn.Parameter]:
    """Return the parameters of a model that may get noise, tied ones once.

    Args:
        model (nn.Module): The model, maybe in DistributedDataParallel.
        exclude_norm (bool): Leave out scale and shift of batch, instance, group, layer and RMS
            norm (the author's code leaves out those of batch norm).
        exclude (sequence of str): Regular expressions; a parameter is left out if one is found in
            any of its names.
        among (iterable of Tensor, optional): Take only these, e.g. those of one optimizer.

    Raises:
        ValueError: An expression is invalid or matches no name, or nothing is left.
        TypeError: A parameter is complex.
    """
    model = unwrapped(model)
    names: dict[int, list[str]] = {}
    found: dict[int, nn.Parameter] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
        found[id(param)] = param
    left_out = set()
    for pattern in exclude:
        try:
            search = re.compile(pattern).search
        except re.error as error:
            raise ValueError(
                f'exclude: {pattern!r} is no regular expression ({error}); escape special '
                'characters'
            ) from error
        matches = {key for key, own in names.items() if any(map(search, own))}
        if not matches:
            some = ', '.join(own[0] for own in list(names.values())[:5])
            raise ValueError(f'exclude: {pattern!r} matches no parameter; names look like: {some}')
        left_out |= matches
    if exclude_norm:
        norms = (module for module in model.modules() if isinstance(module, _NORMS))
        left_out |= {id(param) for norm in norms for param in norm.parameters(recurse=False)}
    wanted = set(found) if among is None else {id(param) for param in among}
    chosen = [param for key, param in found.items() if key in wanted - left_out]
    if not chosen:
        raise ValueError(
            f'no parameter is left for noise: {len(found)} in {type(model).__name__}, '
            f'{len(wanted & set(found))} of these in the optimizer, {len(left_out)} excluded'
        )
    for param in chosen:
        if param.is_complex():
            raise TypeError(
                f'parameter {names[id(param)][0]!r} is complex, which noise is not defined for; '
                'name it in exclude'
            )
    return chosen


class Perturbation:
    """Noise on parameters that can be taken back bit for bit.

    Subtracting the noise would leave rounding errors, with which ranks drift apart; so the clean
    values are kept, one copy of the parameters that require gradients.

    Args:
        params (sequence of Tensor): Candidates; those that are frozen at :meth:`inject` are left
            alone. Of sharded ones this rank's rows change.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._decided = self._noisy = False
        self._candidates = list(params)
        self._params: list[Tensor] = []
        self._clean: list[Tensor] = []

    @property
    def params(self) -> list[Tensor]:
        """Those that require gradients now."""
        return [param for param in self._candidates if param.requires_grad]

    @torch.no_grad()
    def inject(self, fill: Callable[[Tensor, Tensor], object] | None) -> None:
        """Add noise; ``fill(noise, clean)`` writes it for one parameter, None is no noise.

        Until :meth:`restore` further calls do nothing: a graph holds on to the present values.
        """
        if self._decided:
            return
        self._decided = True
        if fill is None:
            return
        params = [shard_of(param) for param in self.params]
        if [*map(id, params)] != [*map(id, self._params)]:
            self._params, self._clean = params, [torch.empty_like(param) for param in params]
        if not params:
            return
        torch._foreach_copy_(self._clean, params)
        self._noisy = True
        # The noise is drawn right into the parameter, so it needs no memory of its own.
        for param, clean in zip(params, self._clean, strict=True):
            fill(param, clean)
        torch._foreach_add_(params, self._clean)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the clean values back; twice is as good as once."""
        if self._noisy:
            torch._foreach_copy_(self._params, self._clean)
        self._decided = self._noisy = False
