"""Which layers of a model a hook or a decomposition works on."""

import difflib
import re
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def matching(names: Iterable[str], patterns: Sequence[str], argument: str) -> set[str]:
    """Names in which ``re.search`` finds one of the patterns.

    Raises:
        ValueError: A pattern is no regular expression or matches no name.
    """
    names, found = list(names), set()
    for pattern in patterns:
        try:
            hits = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(
                f'{argument}: {pattern!r} is no regular expression: {error}'
            ) from error
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise ValueError(
                f'{argument}: {pattern!r} matches no layer of the model; there are {len(names)}, '
                f'such as {", ".join(near)}'
            )
        found |= hits
    return found


def filter_layers(
    model: nn.Module, include: Sequence[str] | None, exclude: Sequence[str]
) -> dict[str, nn.Module]:
    """Layers with several trainable filters per group, by name.

    Args:
        model: Not wrapped.
        include: Regular expressions on the names of convolutions and linear layers; None: all
            convolutions.
        exclude: Regular expressions on what ``include`` has left.

    Raises:
        ValueError: A pattern, or all of them together, matches nothing.
    """
    kinds = CONVOLUTIONS if include is None else (*CONVOLUTIONS, nn.Linear)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        # Spectral norm: to ask for such a weight moves its state, and no optimizer has it.
        and not is_parametrized(module, 'weight')
        and module.weight.requires_grad
        and module.weight.shape[0] // getattr(module, 'groups', 1) > 1
    }
    if include is not None:
        chosen = matching(layers, include, 'include')
        layers = {name: module for name, module in layers.items() if name in chosen}
    dropped = matching(layers, exclude, 'exclude')
    layers = {name: module for name, module in layers.items() if name not in dropped}
    if not layers:
        raise ValueError(
            'no layer is left to regularise: the model has no trainable convolution with several '
            'filters per group, or exclude drops all of them'
        )
    return layers
