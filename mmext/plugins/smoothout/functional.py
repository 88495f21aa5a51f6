"""Noise, schedules and sharpness measures of SmoothOut, on plain tensors."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

ADAPTS = ('none', 'weight', 'filter')
DISTRIBUTIONS = ('uniform', 'normal')
SCHEDULES = ('constant', 'anneal', 'tanh')

_BLOCK = 1 << 16
_ODD = 0x0001_0001_0001_0001


def check_strength(strength: float) -> None:
    """Raise ValueError unless ``strength`` is finite and not negative."""
    if not 0 <= strength < float('inf'):
        raise ValueError(f'strength={strength} must be a finite number >= 0')


def noise_like(
    param: Tensor,
    strength: float,
    adapt: str = 'none',
    distribution: str = 'uniform',
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the noise of one parameter.

    With ``r`` ~ U(-1, 1) or N(0, 1), independent per element, and ``a = strength``:

    - ``'none'``: ``a r`` (SmoothOut);
    - ``'weight'``: ``a r |p|``, element by element;
    - ``'filter'``: ``a ||p_f|| r_f / ||r_f||`` for each slice ``p_f`` along dimension 0, so
      ``||n_f|| = a ||p_f||`` (AdaSmoothOut). The elements of a vector are filters of their own:
      ``n_i = +-a |p_i|``.

    Args:
        param (Tensor): Parameter ``p`` of any shape, real.
        strength (float): ``a >= 0``. In units of the weights for ``'none'``, else relative to
            them; the authors' example is 0.006 with ``'none'``.
        adapt (str): One of :data:`ADAPTS` (author's code).
        distribution (str): One of :data:`DISTRIBUTIONS`; the paper argues for ``'uniform'``.
        generator (torch.Generator, optional): Of the parameter's device.

    Returns:
        Tensor: Noise with shape, type and layout of ``param``.

    Raises:
        ValueError: Unknown ``adapt`` or ``distribution``.

    Reference: arXiv 1805.07898.
    """
    return fill_noise_(torch.empty_like(param), param, strength, adapt, distribution, generator)


@torch.no_grad()
def fill_noise_(
    noise: Tensor,
    param: Tensor,
    strength: float,
    adapt: str = 'none',
    distribution: str = 'uniform',
    generator: torch.Generator | None = None,
) -> Tensor:
    """Write the noise of :func:`noise_like` into ``noise``, without further memory of its size.

    ``noise`` must not share memory with ``param``. Types with less than 32 bits do take a float32
    copy, since a norm of many half-precision squares overflows.

    Returns:
        Tensor: ``noise``.
    """
    if adapt not in ADAPTS:
        raise ValueError(f'adapt={adapt!r} must be one of {ADAPTS}')
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f'distribution={distribution!r} must be one of {DISTRIBUTIONS}')
    if noise.dtype not in (torch.float32, torch.float64) or not noise.is_contiguous():
        dtype = torch.promote_types(noise.dtype, torch.float32)
        draft = torch.empty(noise.shape, dtype=dtype, device=noise.device)
        fill_noise_(draft, param.to(dtype), strength, adapt, distribution, generator)
        return noise.copy_(draft)
    scale = 1.0 if adapt == 'filter' else strength
    if distribution == 'normal':
        noise.normal_(std=scale, generator=generator)
    else:
        _uniform_(noise, scale, generator)
    if adapt == 'none':
        return noise
    if adapt == 'weight':
        # r is symmetric, so r p has the distribution of r |p|.
        return noise.mul_(param)
    if noise.dim() < 2:
        return noise.sign_().mul_(param).mul_(strength)
    wanted, drawn = _filter_norms(param), _filter_norms(noise)
    # No r is all zeros (but for normal noise with probability 0).
    return noise.mul_(strength * wanted / drawn.clamp_min(torch.finfo(noise.dtype).tiny))


def _filter_norms(tensor: Tensor) -> Tensor:
    dims = tuple(range(1, tensor.dim()))
    return torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)


def _uniform_(out: Tensor, scale: float, generator: torch.Generator | None) -> None:
    """Fill ``out`` from U(-scale, scale); on a CPU with 15 bits a number, which is faster."""
    if out.device.type != 'cpu':
        out.uniform_(-scale, scale, generator=generator)
        return
    # A draw of 64 bits makes four odd numbers of 16: symmetric about zero and never zero.
    bits = torch.empty(min(_BLOCK, out.numel() + 3) // 4 or 1, dtype=torch.int64)
    for block in out.view(-1).split(4 * bits.numel()):
        bits.random_(-(2**63), None, generator=generator)
        odd = bits.bitwise_or_(_ODD).view(torch.int16)[: block.numel()]
        block.copy_(odd).mul_(scale * 2**-15)


def schedule(name: str, step: int, max_steps: int) -> float:
    """Return the factor of the strength at an optimizer step (author's code).

    ``'constant'``: 1. ``'anneal'``: ``sqrt(1 / (1 + t)^0.55)``. ``'tanh'``:
    ``(tanh(10 (t/T - 0.5)) + 1) / 2``, which switches the noise on half-way.

    Args:
        name (str): One of :data:`SCHEDULES`.
        step (int): ``t >= 0``, counts optimizer steps.
        max_steps (int): ``T >= 1``.

    Returns:
        float: In [0, 1].

    Raises:
        ValueError: Unknown ``name``.
    """
    if name == 'constant':
        return 1.0
    if name == 'anneal':
        return (1 + step) ** (-0.55 / 2)
    if name == 'tanh':
        return (math.tanh(10 * (step / max_steps - 0.5)) + 1) / 2
    raise ValueError(f'schedule={name!r} must be one of {SCHEDULES}')


@contextmanager
def kept(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Give the body copies of ``params`` and put these back bit for bit, also on an exception.

    Example:
        >>> with kept(params) as clean, torch.no_grad():
        ...     torch._foreach_add_(params, noise)
    """
    clean = [param.detach().clone() for param in params]
    try:
        yield clean
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(params), clean)


@torch.no_grad()
def expected_sharpness(
    loss_fn: Callable[[], Tensor],
    params: Sequence[Tensor],
    strength: float,
    k: int = 10,
    adapt: str = 'none',
    distribution: str = 'uniform',
    generator: torch.Generator | None = None,
) -> float:
    """Estimate ``E_n[L(w + n)] - L(w)``, how far SmoothOut's objective is above the loss (ours).

    Args:
        loss_fn (callable): Returns the loss ``L`` at the present values of ``params``, a scalar;
            it should be deterministic (evaluation mode, fixed data).
        params (sequence of Tensor): What is perturbed, leaves.
        strength, adapt, distribution, generator: As in :func:`noise_like`.
        k (int): Number of draws, >= 1. Costs ``k + 1`` forward passes and a copy of ``params``.

    Returns:
        float: May be negative. ``params`` are left bit for bit as they were.

    Raises:
        ValueError: ``k`` is not positive.
    """
    if k < 1:
        raise ValueError(f'k={k} must be at least 1')
    base = float(loss_fn())
    total = 0.0
    with kept(params) as clean:
        for _ in range(k):
            for param, origin in zip(params, clean, strict=True):
                fill_noise_(param, origin, strength, adapt, distribution, generator)
            torch._foreach_add_(list(params), clean)
            total += float(loss_fn()) - base
    return total / k


def keskar_sharpness(
    loss_fn: Callable[[], Tensor],
    params: Sequence[Tensor],
    epsilon: float = 5e-4,
    max_iters: int = 10,
) -> float:
    """Measure ``100 (max L(w + y) - L(w)) / (1 + L(w))`` over ``|y_i| <= epsilon (|w_i| + 1)``.

    The maximum over the whole box is sought by bounded L-BFGS-B (SciPy) from ``y = 0``, as Keskar
    et al. (arXiv 1609.04836, Metric 2.1) do. Not invariant to rescaling of layers.

    Args:
        loss_fn (callable): As in :func:`expected_sharpness`, but differentiable.
        params (sequence of Tensor): ``w``, leaves that require gradients.
        epsilon (float): Half width of the box, > 0; 5e-4 in the authors' code, 1e-3 with Keskar.
        max_iters (int): Iterations of L-BFGS-B, >= 1; 10 as with Keskar. Each costs one to a
            few forward and backward passes and a dozen float64 vectors of the size of ``w``.

    Returns:
        float: In percent, >= 0. ``params`` and their ``grad`` are left as they were.

    Raises:
        ValueError: ``epsilon`` or ``max_iters`` is not positive.
        ImportError: SciPy is not installed.
    """
    if epsilon <= 0 or max_iters < 1:
        raise ValueError(f'epsilon={epsilon} and max_iters={max_iters} must be positive')
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ImportError(
            "keskar_sharpness needs SciPy: pip install 'mmext[data]'", name='scipy'
        ) from error
    params = list(params)
    start = _flatten(params)
    width = epsilon * (np.abs(start) + 1)

    def negative(point: np.ndarray) -> tuple[float, np.ndarray]:
        _unflatten_(params, point)
        with torch.enable_grad():
            loss = loss_fn()
            grads = torch.autograd.grad(loss, params, allow_unused=True)
        filled = [
            torch.zeros_like(param) if grad is None else grad
            for param, grad in zip(params, grads, strict=True)
        ]
        return -loss.item(), -_flatten(filled)

    with kept(params):
        base = -negative(start)[0]
        found = minimize(
            negative,
            start,
            jac=True,
            method='L-BFGS-B',
            bounds=np.stack([start - width, start + width], 1),
            options={'maxiter': max_iters},
        )
    # The start is in the box, so a search that found nothing higher has found the start.
    return 100 * max(-float(found.fun) - base, 0.0) / (1 + base)


def _flatten(tensors: Sequence[Tensor]) -> np.ndarray:
    flat = [tensor.detach().reshape(-1).to('cpu', torch.float64) for tensor in tensors]
    return torch.cat(flat).numpy()


@torch.no_grad()
def _unflatten_(tensors: Sequence[Tensor], point: np.ndarray) -> None:
    flat = torch.from_numpy(point).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, flat, strict=True):
        tensor.copy_(part.view(tensor.shape))
