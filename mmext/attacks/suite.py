"""Attacks by name, and how all of them are run on a batch."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn
from mmext.attacks.gradient_attacks import AttackResult, Generators, l2_norm, rows_of
from mmext.engine import rng

#: Attacks inside a ball: name -> where it is, and its fixed arguments. They need ``eps``.
IN_BALL: dict[str, tuple[str, dict[str, Any]]] = {
    'fgsm': ('mmext.attacks.gradient_attacks:fgsm', {}),
    'pgd': ('mmext.attacks.gradient_attacks:pgd', {}),
    'apgd_ce': ('mmext.attacks.auto_pgd:apgd', {'loss': 'ce'}),
    'apgd_t': ('mmext.attacks.auto_pgd:apgd', {'loss': 'dlr_targeted'}),
    'square': ('mmext.attacks.square:square', {}),
    'standard': ('mmext.attacks.standard:standard', {}),
}
#: Attacks of least norm.
LEAST_NORM: dict[str, tuple[str, dict[str, Any]]] = {
    'cw': ('mmext.plugins.guided_cw.functional:cw_l2', {'guide': 'none'}),
    'guided_cw': ('mmext.plugins.guided_cw.functional:cw_l2', {'guide': 'gradient'}),
    'ddn': ('mmext.attacks.minimum_norm:ddn', {}),
    'fmn': ('mmext.attacks.minimum_norm:fmn', {}),
}
ATTACKS = (*LEAST_NORM, *IN_BALL)


def attack_function(name: str) -> Callable[..., AttackResult]:
    """Return the attack of a name in :data:`ATTACKS`.

    Raises:
        ValueError: There is none.
    """
    if name not in ATTACKS:
        raise ValueError(f'attack={name!r} must be one of {", ".join(ATTACKS)}')
    place, fixed = (IN_BALL | LEAST_NORM)[name]
    module, _, function = place.partition(':')
    return partial(getattr(import_module(module), function), **fixed)


def attack_batch(
    name: str,
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float] = (),
    mask: Tensor | None = None,
    generator: Generators = None,
    **options: Any,
) -> list[AttackResult]:
    """Run an attack on a batch: once for an attack of least norm, else at each budget.

    Args:
        name: One of :data:`ATTACKS`.
        logits_fn, x, y, mask, generator: As for the attacks.
        eps: Budgets, rising. Balls are nested, so what fell at one is not attacked at the next.
        options: Of the attack.

    Returns:
        A result for each budget, or one.

    Raises:
        ValueError: Unknown attack, or as the attack says.
    """
    attack = partial(attack_function(name), logits_fn, **options)
    if name in LEAST_NORM:
        return [attack(x, y, mask=mask)]
    x_adv, first, by = x.clone(), torch.full_like(y, -1), torch.full_like(y, -1)
    results = []
    for budget in eps:
        rows = (first < 0).nonzero().squeeze(1)
        forward = backward = 0
        if len(rows):
            draws = {} if name == 'fgsm' else {'generator': rows_of(generator, rows)}
            part = None if mask is None else mask.expand(x.shape)[rows]
            found = attack(x[rows], y[rows], eps=budget, mask=part, **draws)
            hit = found.success
            x_adv[rows[hit]], first[rows[hit]] = found.x_adv[hit], found.first_success[hit]
            by[rows] = by[rows] if found.by is None else found.by
            forward, backward = found.n_forward, found.n_backward
        l2 = torch.where(first >= 0, l2_norm(x_adv - x), torch.inf)
        which = by.clone() if name == 'standard' else None
        told = x_adv.clone(), first >= 0, l2, forward, backward, first.clone(), which
        results.append(AttackResult(*told))
    return results


def sample_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """A generator for each sample of a data set, whatever batch or rank attacks it."""
    return [rng.generator(seed, 'robustness', 0, index) for index in indices]
