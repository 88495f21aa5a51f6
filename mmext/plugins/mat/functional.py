"""Multi-strength adversarial training (arXiv 1705.09764) on plain tensors.

The paper's abstract fixes that training examples of several strengths (perturbation levels) are
combined, by one network (mixed) or by several (parallel). Attack, ratio, draws and the rule that
combines the networks are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn
from mmext.attacks.gradient_attacks import NORMS, perturb

ATTACKS = ('FGSM', 'PGD')
COMBINE = ('mean_prob', 'vote', 'fusion')


def attack_function(attack: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Make the attack of a config (ours; the paper's abstract names none).

    Args:
        attack: ``type`` is 'FGSM' (one step) or 'PGD'. Further keys: ``steps`` (PGD only, default
            7), ``step_ratio`` (step over strength; default 1 for one step, else 2.5 / steps),
            ``random_start`` (default: PGD True, FGSM False), ``own_prediction`` (lead away from the
            model's prediction instead of the label, against label leaking; default False) and
            ``norm`` ('linf' or 'l2').

    Returns:
        ``f(logits_fn, pixels, labels, eps, generator=None, mask=None) -> pixels``, where ``eps``
        is one strength per sample, in pixels of range [0, 1].

    Raises:
        ValueError: Unknown type or key, or a number outside its range.
    """
    settings = dict(attack)
    kind = settings.pop('type', None)
    if kind not in ATTACKS:
        raise ValueError(f'attack type={kind!r} must be one of {", ".join(ATTACKS)}')
    known = {'step_ratio', 'random_start', 'own_prediction', 'norm'}
    known |= {'steps'} if kind == 'PGD' else set()
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f'attack {kind} has no {", ".join(unknown)}; it has {sorted(known)}')
    steps = settings.get('steps', 7) if kind == 'PGD' else 1
    ratio = settings.get('step_ratio', 1.0 if steps <= 1 else 2.5 / steps)
    norm = settings.get('norm', 'linf')
    if steps < 1 or not ratio > 0:
        raise ValueError(f'attack: steps={steps} must be at least 1, step_ratio={ratio} above 0')
    if norm not in NORMS:
        raise ValueError(f'attack: norm={norm!r} must be one of {", ".join(NORMS)}')
    random_start = settings.get('random_start', kind == 'PGD')
    own_prediction = settings.get('own_prediction', False)

    def run(
        logits_fn: LogitsFn,
        pixels: Tensor,
        labels: Tensor,
        eps: Tensor,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        return perturb(
            logits_fn, pixels, labels, eps=eps, steps=steps, step_size=ratio * eps, norm=norm,
            random_start=random_start, own_prediction=own_prediction, generator=generator,
            mask=mask,
        )  # fmt: skip

    return run


def check_strengths(strengths: Sequence[float], bounds: Sequence[float]) -> None:
    """Check a list of strengths.

    Raises:
        ValueError: It is empty, does not rise, or leaves the range of the images.
    """
    width = bounds[1] - bounds[0]
    rising = all(a < b for a, b in zip(strengths, strengths[1:], strict=False))
    if not strengths or not rising or strengths[0] <= 0 or strengths[-1] > width:
        raise ValueError(
            f'strengths={list(strengths)} must rise within (0, {width:g}], the raw units of '
            f'bounds={tuple(bounds)}: 8 means 8/255 of images of range (0, 255)'
        )


def attack_rows(
    attack: Callable[..., Tensor],
    logits_fn: LogitsFn,
    pixels: Tensor,
    labels: Tensor,
    eps: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack the samples whose strength is above 0; the others stay and cost nothing.

    Args:
        attack: Of :func:`attack_function`.
        logits_fn: Pixels -> logits (N, K).
        pixels: (N, C, H, W) in [0, 1].
        labels: Classes to lead away from, int64 (N,).
        eps: Strength of each sample in pixels, (N,).
        generator: Of a random start, on the device of ``pixels``.

    Returns:
        (N, C, H, W), a tensor of its own.
    """
    rows = (eps > 0).nonzero().squeeze(1)
    attacked = pixels.clone()
    if len(rows):
        attacked[rows] = attack(logits_fn, pixels[rows], labels[rows], eps[rows], generator)
    return attacked


def normalised_weights(weights: Sequence[float] | None, parts: int) -> list[float]:
    """Weights of clean and adversarial examples, with sum 1.

    Args:
        weights: One per part, clean first, >= 0; None: equal (ours).
        parts: Number of parts.

    Raises:
        ValueError: Wrong number, negative, or all 0.
    """
    if weights is None:
        return [1 / parts] * parts
    if len(weights) != parts or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(
            f'weights={list(weights)} must be {parts} numbers >= 0 (clean first, then one per '
            'strength), not all 0'
        )
    return [weight / sum(weights) for weight in weights]


def mixed_loss(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Loss of mixed MAT: ``sum_k a_k L_k``.

    Args:
        parts: Loss on clean examples and on those of each strength, scalars.
        weights: ``a_k``, of :func:`normalised_weights`.
    """
    return torch.stack([a * part for a, part in zip(weights, parts, strict=True)]).sum()


def draw_strengths(
    count: int,
    strengths: Sequence[float],
    weights: Sequence[float],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a strength for each sample, so that a step costs what one strength costs (ours).

    Args:
        count: Samples.
        strengths: To draw from; 0 is clean.
        weights: Their probabilities.
        generator: On the CPU; None: torch's own.

    Returns:
        (count,), float32 on the CPU.
    """
    chosen = torch.multinomial(torch.tensor(weights), count, replacement=True, generator=generator)
    return torch.tensor(strengths, dtype=torch.float32)[chosen]


def combine_scores(logits: Tensor, combine: str) -> Tensor:
    """Class scores of parallel MAT from the logits of its networks (ours).

    Args:
        logits: (networks, N, K).
        combine: 'mean_prob': mean of the softmax. 'vote': share of the networks that predict a
            class, ties broken by the mean probability.

    Returns:
        (N, K), >= 0, rows sum to 1.

    Raises:
        ValueError: Unknown rule.
    """
    mean = logits.softmax(2).mean(0)
    if combine == 'mean_prob':
        return mean
    if combine == 'vote':
        votes = torch.zeros_like(mean).scatter_add_(
            1, logits.argmax(2).T, torch.ones_like(mean[:, :1]).expand(-1, len(logits))
        )
        # Less than a vote in total, so it only breaks ties.
        scores = votes + mean / 2
        return scores / scores.sum(1, keepdim=True)
    raise ValueError(f"combine={combine!r} must be 'mean_prob' or 'vote'")
