"""Error feedback: what the ternary codes of a worker leave out is added to its next gradient.

Ours for TernGrad; the scheme is that of Seide et al. (2014) and Karimireddy et al. (arXiv
1901.09847). It needs codes that come close to the gradient, and drawn ones are farther from it
than zeros are where 80 % of them are zero. So here the codes are not drawn: each element takes the
nearest of -s, 0 and s, with the scaler for which that is closest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

State = dict[int, Tensor]
# Of Lloyd's iteration; each reads the gradient once.
_ROUNDS = 3


class Feedback:
    """What the workers of this process have left out so far.

    Memory: the ternary layers once more for each worker, in float32.

    Attributes:
        loss_scale: What gradients are multiplied with; the errors are kept without it.
    """

    def __init__(self) -> None:
        self.loss_scale = 1.0
        self.errors: dict[int, State] = {}

    def add(self, worker: int, key: int, grad: Tensor) -> None:
        """Add the error of a worker's layer to its gradient, in place."""
        error = self.errors.get(worker, {}).get(key)
        if error is not None:
            grad.add_(error.to(grad).view_as(grad), alpha=self.loss_scale)

    def keep(self, worker: int, key: int, grad: Tensor, codes: Tensor, factor: Tensor) -> None:
        """Take the new error ``grad - factor * codes``; an overflow leaves the old one."""
        flat = grad.detach().reshape(-1).float()
        error = torch.addcmul(flat, codes.float(), factor, value=-1).div_(self.loss_scale)
        old = self.errors.setdefault(worker, {}).get(key)
        if old is None:
            old = torch.zeros_like(error)
        self.errors[worker][key] = torch.where(torch.isfinite(factor), error, old.to(error))

    def forget(self, worker: int, key: int) -> None:
        """Drop the error of a layer."""
        self.errors.get(worker, {}).pop(key, None)


def nearest_scalers(grads: Sequence[Tensor]) -> Tensor:
    """Scaler ``s`` of each layer that brings ``s * codes`` close to it, by Lloyd's iteration.

    Its fixed point is the mean magnitude of the elements above ``s / 2``: 1.22 standard deviations
    for a Gaussian gradient, whose codes then leave out 19 % of the square.

    Args:
        grads: Gradients of n layers, n >= 1.

    Returns:
        float32 ``(n,)``; 0 for zeros and infinite for a layer with a NaN or an infinity.
    """
    found = []
    for grad in grads:
        sizes = grad.detach().reshape(-1).float().abs()
        scale = 1.2 * torch.linalg.vector_norm(sizes) / max(sizes.numel(), 1) ** 0.5
        for _ in range(_ROUNDS):
            above = sizes > scale / 2
            scale = (sizes * above).sum() / above.sum().clamp_min(1)
        found.append(torch.where(torch.isfinite(scale), scale, torch.inf))
    return torch.stack(found)


def nearest(grad: Tensor, scale: Tensor, out: Tensor) -> Tensor:
    """Codes of the nearest of ``-s``, 0 and ``s``, int8 ``(numel,)``; zeros if s is infinite."""
    flat, half = grad.detach().reshape(-1).float(), scale / 2
    torch.sub((flat > half).to(torch.int8), (flat < -half).to(torch.int8), out=out)
    return out
