"""Unbiased rounding of the sums that ranks send back, so that their bits stop growing (ours)."""

import torch
from torch import Tensor

#: Distance of the levels over the root mean square of the sums.
SPACING = 0.5


def requantize(sums: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Round sums of ternary codes to levels that are ``d`` apart, unbiased.

    With ``d = max(rms(S) / 2, 1)`` and ``f`` the fraction of ``S / d``, the level is rounded up
    with probability ``f``. So ``E[d * level] = S`` and ``Var[d * level] = d^2 f (1 - f)``, which is
    at most ``d^2 / 4``: where ``d > 1``, the mean square of the sums grows by 1/16 at most. In the
    mean of N workers with scaler s the variance is ``(s / N)^2`` times that.

    The entropy of a level depends on the shape of the distribution, no longer on N: about 3 bits
    for Gaussian sums and less for others. Sums with ``rms <= 2`` stay exact.

    Args:
        sums: In -N..N, ``(n,)``.
        generator: On their device.

    Returns:
        Levels in -N..N, ``(n,)`` of the dtype of the sums, and ``d``, float32 ``()``.
    """
    values = sums.float()
    rms = torch.linalg.vector_norm(values) / max(values.numel(), 1) ** 0.5
    step = (SPACING * rms).clamp_min(1.0)
    uniform = torch.rand(values.shape, generator=generator, device=values.device)
    return (values / step).add_(uniform).floor_().to(sums.dtype), step
