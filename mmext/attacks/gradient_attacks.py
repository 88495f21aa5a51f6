"""FGSM and PGD on plain tensors, and what every attack returns.

``x`` are images in ``bounds``, ``logits_fn`` maps them to logits (N, K); see
:func:`mmext.attacks.adversarial.logits_fn` for classifiers of MMPretrain, and call an attack inside
``attack_mode``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from mmext.attacks.adversarial import LogitsFn

NORMS = ('linf', 'l2')
#: One for a batch, or one for each sample, whose draws then depend on no other sample.
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator] | None
_FLOOR = 1e-12


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images and what they cost.

    Attributes:
        x_adv: (N, ...); where the attack failed, and where ``x`` was misclassified already, ``x``.
        success: Bool (N,), whether ``x_adv`` is adversarial.
        l2: ``||x_adv - x||_2`` in units of ``bounds``, (N,); infinite where the attack failed.
        n_forward: Images that went through the network.
        n_backward: Images whose gradient was taken.
        first_success: Gradient steps before the first adversarial image, int64 (N,); 0: ``x`` was
            misclassified already (or the random start was), -1: never.
        by: Which attack of several found it, index into :data:`.standard.PARTS`, int64 (N,), -1:
            none; None where there is one attack.
    """

    x_adv: Tensor
    success: Tensor
    l2: Tensor
    n_forward: int
    n_backward: int
    first_success: Tensor
    by: Tensor | None = None


def check_images(x: Tensor, y: Tensor, bounds: tuple[float, float], mask: Tensor | None) -> None:
    """Check the arguments every attack has; one transfer from the device.

    Raises:
        ValueError: ``x`` is no batch of floating-point images in ``bounds``, or ``y`` does not
            belong to it.
    """
    low, high = bounds
    if not low < high:
        raise ValueError(f'bounds={bounds} must be (low, high) with low < high')
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f'x must be floating-point images (N, C, H, W), got {x.dtype} {tuple(x.shape)}'
        )
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise ValueError(
            f'y must be class indices of shape ({len(x)},), got {y.dtype} {tuple(y.shape)}'
        )
    inside = (x >= low) & (x <= high)
    if mask is not None:
        inside = inside | ~mask
    if not bool(inside.all()):
        raise ValueError(
            f'x leaves bounds={bounds}: it has values from {float(x.min()):.4g} to '
            f'{float(x.max()):.4g}; attack pixels, not normalised inputs, and put the '
            'normalisation into logits_fn'
        )


def check_ball(eps: float | Tensor, norm: str, steps: int) -> None:
    """Check the arguments of attacks inside a ball.

    Raises:
        ValueError: One of them is out of range.
    """
    if norm not in NORMS:
        raise ValueError(f'norm={norm!r} must be one of {", ".join(NORMS)}')
    if steps < 1:
        raise ValueError(f'steps={steps} must be at least 1')
    if not isinstance(eps, Tensor) and eps < 0:
        raise ValueError(f'eps={eps} must not be negative')


def expand(values: Tensor, like: Tensor) -> Tensor:
    """View (N,) as (N, 1, ...) with as many dimensions as ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def l2_norm(delta: Tensor) -> Tensor:
    """L2 norm of each sample, (N, ...) -> (N,)."""
    return delta.flatten(1).norm(dim=1)


def distance(logits: Tensor, y: Tensor, targeted: bool = False, kappa: float = 0) -> Tensor:
    """How far a sample is from being adversarial; below 0 it is.

    ``Z_y - max_{i != y} Z_i + kappa``, with ``targeted`` ``max_{i != y} Z_i - Z_y + kappa``.

    Args:
        logits: (N, K), of any sign.
        y: True class, with ``targeted`` the wanted one, (N,).
        targeted: See above.
        kappa: Confidence in units of logits, >= 0.

    Returns:
        (N,)
    """
    own = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return (other - own if targeted else own - other) + kappa


def distance_direction(logits: Tensor, y: Tensor, targeted: bool = False) -> Tensor:
    """Gradient of :func:`distance` by the logits, (N, K)."""
    other = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    sign = -1.0 if targeted else 1.0
    direction = torch.zeros_like(logits).scatter_(1, y[:, None], sign)
    return direction.scatter_(1, other, -sign)


def entropy_direction(logits: Tensor, y: Tensor, targeted: bool = False) -> Tensor:
    """Gradient of the cross-entropy by the logits, each sample scaled to maximum 1, (N, K).

    With ``targeted`` its negative. The plain gradient underflows on confident samples, and FGSM
    then leaves them alone; a positive factor per sample changes no normalised step.
    """
    probabilities = logits.detach().double().softmax(1)
    others = probabilities.scatter(1, y[:, None], 0)
    # 1 - p_y cancels to 0 where p_y rounds to 1; the sum of the others does not.
    direction = others.scatter(1, y[:, None], -others.sum(1, keepdim=True))
    direction = direction / direction.abs().amax(1, keepdim=True).clamp_min(1e-300)
    return (-direction if targeted else direction).to(logits.dtype)


def input_gradient(
    logits_fn: LogitsFn, x: Tensor, direction: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits at ``x`` and their gradient by ``x`` along ``direction(logits)``, both detached."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_fn(x)
        (gradient,) = torch.autograd.grad(logits, x, direction(logits.detach()))
    return logits.detach(), gradient


def norm_of(delta: Tensor, norm: str) -> Tensor:
    """Norm of each sample, 'linf' or 'l2', (N, ...) -> (N,)."""
    return delta.flatten(1).abs().amax(1) if norm == 'linf' else l2_norm(delta)


def project(delta: Tensor, eps: Tensor, norm: str) -> Tensor:
    """Nearest to ``delta`` in the ball of radius ``eps``, which broadcasts to it."""
    if norm == 'linf':
        return torch.maximum(torch.minimum(delta, eps), -eps)
    size = expand(l2_norm(delta), delta).clamp_min(_FLOOR)
    return delta * (eps / size).clamp_max(1)


def draw(like: Tensor, shape: Sequence[int], generator: Generators, normal: bool = False) -> Tensor:
    """Random numbers, uniform in [0, 1) or normal, of one shape for each sample of ``like``."""
    one = torch.randn if normal else torch.rand
    if generator is None or isinstance(generator, torch.Generator):
        return one(len(like), *shape, generator=generator, device=like.device, dtype=like.dtype)
    made = [one(*shape, generator=each, device=each.device, dtype=like.dtype) for each in generator]
    return torch.stack(made).to(like.device)


def rows_of(generator: Generators, rows: Tensor) -> Generators:
    """The generators of some samples."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    return [generator[row] for row in rows.tolist()]


def _uphill(logits: Tensor, target: Tensor | None, targeted: bool) -> Tensor:
    return entropy_direction(logits, logits.argmax(1) if target is None else target, targeted)


def _random_start(x: Tensor, eps: Tensor, norm: str, generator: Generators) -> Tensor:
    if norm == 'linf':
        return (2 * draw(x, x.shape[1:], generator) - 1) * eps
    direction = draw(x, x.shape[1:], generator, normal=True)
    radius = draw(x, (), generator) ** (1 / x[0].numel())
    return direction / expand(l2_norm(direction) / radius, x).clamp_min(_FLOOR) * eps


def perturb(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 1,
    step_size: float | Tensor | None = None,
    norm: str = 'linf',
    random_start: bool = False,
    own_prediction: bool = False,
    targeted: bool = False,
    generator: Generators = None,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
    observe: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Climb the cross-entropy inside a ball: the images adversarial training uses.

    One step of size ``eps`` without random start is FGSM (arXiv 1412.6572), more steps are PGD
    (arXiv 1706.06083). Nothing checks whether an image is adversarial; :func:`pgd` does.

    Args:
        logits_fn: Images -> logits.
        x: Images in ``bounds``, (N, ...).
        y: Classes to lead away from, or towards with ``targeted``, (N,).
        eps: Radius of the ball in units of ``bounds``, a number or one per sample, >= 0.
        steps: Gradient steps, >= 1.
        step_size: Length of a step; default ``eps`` for one step, else ``2.5 eps / steps``
            (arXiv 1706.06083, section on MNIST's choice: any point of the ball is reachable).
        norm: 'linf' or 'l2'.
        random_start: Begin at a uniform point of the ball.
        own_prediction: Lead away from the class predicted at the start instead of ``y``. One-step
            training with true labels learns to read the label off the step ("label leaking",
            arXiv 1611.01236).
        targeted: Descend towards ``y`` instead.
        generator: Of the random start, on the device of ``x``; or one for each sample.
        bounds: Range of ``x``.
        mask: Bool, broadcasts to ``x``; False stays as it is (padding).
        observe: Called with (step, images, logits) before each step.

    Returns:
        Images of the last step, (N, ...), in ``bounds`` and in the ball.

    Raises:
        ValueError: ``norm``, ``steps`` or ``eps`` is out of range.
    """
    check_ball(eps, norm, steps)
    radius = expand(torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x)), x)
    if step_size is None:
        step = radius if steps == 1 else 2.5 * radius / steps
    else:
        step = torch.as_tensor(step_size, dtype=x.dtype, device=x.device).expand(len(x))
        step = expand(step, x)

    def limited(images: Tensor) -> Tensor:
        images = (x + project(images - x, radius, norm)).clamp(*bounds)
        return images if mask is None else torch.where(mask, images, x)

    now = limited(x + _random_start(x, radius, norm, generator)) if random_start else x
    target: Tensor | None = None if own_prediction else y
    for index in range(steps):
        uphill = partial(_uphill, target=target, targeted=targeted)
        logits, gradient = input_gradient(logits_fn, now, uphill)
        target = logits.argmax(1) if target is None else target
        if observe is not None:
            observe(index, now, logits)
        if norm == 'linf':
            move = gradient.sign()
        else:
            move = gradient / expand(l2_norm(gradient), x).clamp_min(_FLOOR)
        now = limited(now + step * move)
    return now.detach()


def pgd(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 20,
    step_size: float | None = None,
    norm: str = 'linf',
    random_start: bool = True,
    restarts: int = 1,
    targeted: bool = False,
    generator: Generators = None,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """Attack with :func:`perturb` and keep each sample's worst step.

    Samples that are misclassified already cost one forward pass. Arguments as there; ``restarts``
    runs attack what still stands.

    Returns:
        Result with the images of the least margin; ``first_success`` counts steps.

    Raises:
        ValueError: Wrong arguments, see :func:`perturb` and :func:`check_images`.
    """
    check_images(x, y, bounds, mask)
    with torch.no_grad():
        margin = distance(logits_fn(x), y, targeted)
    x_adv, first = x.clone(), torch.where(margin < 0, 0, -1)
    n_forward, n_backward = len(x), 0
    for run in range(restarts):
        todo = (first < 0).nonzero().squeeze(1)
        if not len(todo):
            break
        images, labels = x[todo], y[todo]
        best, found = images.clone(), torch.full_like(todo, -1)
        least = torch.zeros_like(margin[todo])

        def observe(index: int, now: Tensor, logits: Tensor, labels=labels, run=run) -> None:
            nonlocal best, least, found
            here = distance(logits, labels, targeted)
            better = here < least
            found = torch.where((found < 0) & better, index + run * steps, found)
            best = torch.where(expand(better, now), now.detach(), best)
            least = torch.minimum(least, here)

        last = perturb(
            logits_fn, images, labels, eps=eps, steps=steps, step_size=step_size, norm=norm,
            random_start=random_start, targeted=targeted, generator=rows_of(generator, todo),
            bounds=bounds, mask=None if mask is None else mask.expand(x.shape)[todo],
            observe=observe,
        )  # fmt: skip
        with torch.no_grad():
            observe(steps, last, logits_fn(last))
        x_adv[todo], first[todo] = best, found
        n_forward += len(todo) * (steps + 1)
        n_backward += len(todo) * steps
    success = first >= 0
    l2 = torch.where(success, l2_norm(x_adv - x), torch.inf)
    return AttackResult(x_adv, success, l2, n_forward, n_backward, first)


def fgsm(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = 'linf',
    targeted: bool = False,
    bounds: tuple[float, float] = (0, 1),
    mask: Tensor | None = None,
) -> AttackResult:
    """One gradient step of length ``eps`` (arXiv 1412.6572); arguments as for :func:`pgd`."""
    return pgd(
        logits_fn, x, y, eps=eps, steps=1, step_size=eps, norm=norm, random_start=False,
        targeted=targeted, bounds=bounds, mask=mask,
    )  # fmt: skip
