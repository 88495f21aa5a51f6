"""Free the graph of one part of a model before the next part runs, at equal gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Powers of two are exact. The largest comes first: what does not overflow keeps small gradients.
_FP16_SCALES = (2.0**16, 2.0**10, 2.0**4, 1.0)


class _Kept(torch.autograd.Function):
    """A scalar whose gradients are known already."""

    @staticmethod
    def forward(context, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        context.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(context, outer: Tensor):
        gradients = [outer.to(gradient.dtype) * gradient for gradient in context.gradients]
        return (None, None, *gradients)


def early_backward(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Differentiate ``loss`` now, which frees its graph, and return a stand-in for it.

    The stand-in has the value of ``loss`` and, in the ordinary backward pass later, gives each
    parameter the same gradient, times whatever the outer loss multiplies it with. So optimizer
    wrappers, gradient accumulation and DDP, which reduces gradients in that pass, notice nothing.
    Costs one more copy of the gradients until then.

    Args:
        loss: Scalar.
        parameters: Leaves that ``loss`` may depend on.

    Returns:
        Scalar.
    """
    # Under float16 autocast the scaler multiplies the loss too late for this backward pass.
    kind = loss.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    scales = _FP16_SCALES if half else (1.0,)
    with torch.autocast(kind, enabled=False):
        for scale in scales:
            found = torch.autograd.grad(
                loss * scale, parameters, allow_unused=True, retain_graph=scale != scales[-1]
            )
            finite = all(g is None or bool(torch.isfinite(g).all()) for g in found if half)
            if finite:
                break
    pairs = [(p, g / scale) for p, g in zip(parameters, found, strict=True) if g is not None]
    return _Kept.apply(loss.detach(), [g for _, g in pairs], *(p for p, _ in pairs))


def freed(total: Tensor, *parts: dict) -> list[dict]:
    """Losses without their graph; the first key with "loss" carries the gradient of ``total``.

    Args:
        total: Result of :func:`early_backward`.
        parts: Losses of MMDetection, tensors or lists of them by key.

    Returns:
        The parts with the same values.
    """
    link = total - total.detach()
    result = []
    for part in parts:
        values: dict = {}
        for key, value in part.items():
            several = isinstance(value, list)
            detached = [v.detach() for v in (value if several else [value])]
            if 'loss' in key and link is not None:
                detached[0] = detached[0] + link
                link = None
            values[key] = detached if several else detached[0]
        result.append(values)
    return result
