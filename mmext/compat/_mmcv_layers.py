"""Focal losses and deformable convolutions of ``mmcv._ext``, see ``_mmcv_kernels.py``."""

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(*tensors: Tensor) -> list[Tensor]:
    """Cast all to their common dtype, at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss (arXiv:1708.02002, Eq. 5, per class) of every logit to ``output``.

    Args:
        input: ``(N, C)`` logits.
        target: ``(N,)`` int64; C, and any negative, is background.
        weight: ``(C,)`` factors of the samples of each class, background 1; empty for none.
        output: ``(N, C)``.

    Raises:
        ValueError: A target is above C.
    """
    _check_target(target, input.size(1))
    _, miss, log_hit, factor = _binary(input, target, weight, alpha)
    output.copy_(-factor * miss**gamma * log_hit)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Add d loss / d logit of :func:`sigmoid_focal_loss_forward` to ``grad_input``, ``(N, C)``."""
    sign, miss, log_hit, factor = _binary(input, target, weight, alpha)
    slope = miss - gamma * (1 - miss) * log_hit
    grad_input.add_(-sign * factor * miss**gamma * slope)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write ``-alpha * (1 - p)**gamma * log(p)`` of each sample's class to ``output``, ``(N,)``.

    Args:
        input: ``(N, C)`` softmax probabilities (not logits).
        target: ``(N,)`` int64; a sample outside [0, C) has no loss.
        weight: ``(C,)`` factors of the samples of each class; empty for none.

    Raises:
        ValueError: A target is above C.
    """
    _check_target(target, input.size(1))
    hit, factor = _own_class(input, target, weight, alpha)
    output.copy_(-factor * (1 - hit) ** gamma * _log(hit))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Add d loss / d logit to ``grad_input``, ``(N, C)``; ``buff``, ``(N,)``, is scratch space."""
    hit, factor = _own_class(input, target, weight, alpha)
    miss = 1 - hit
    # At p = 1 and gamma < 1 the power is infinite while its product with log(p) vanishes.
    power = miss.clamp(min=torch.finfo(miss.dtype).tiny) ** (gamma - 1)
    slope = factor * (gamma * power * hit * _log(hit) - miss**gamma)
    buff.copy_(slope)
    grad_input.add_(slope[:, None] * (_one_hot(target, input.size(1)).to(hit) - input.to(hit)))


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the deformable convolution (arXiv:1703.06211) of ``(N, C, H, W)`` to ``output``.

    ``offset``, ``(N, 2 * deformable_group * kH * kW, H', W')``, interleaves y and x as torchvision
    does. ``columns``, ``ones`` and ``im2col_step`` steer mmcv's own memory use and have no effect.
    """
    where = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(
        torch.ops.torchvision.deform_conv2d(*_deform_inputs(input, weight, offset), *where, False)
    )


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the gradients of :func:`deform_conv_forward` to ``gradInput`` and ``gradOffset``.

    torchvision's kernel returns all gradients at once and mmcv asks for the weight's in a second
    call, so a full backward pass costs two runs of it.
    """
    where = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _deform_grads(gradOutput, _deform_inputs(input, weight, offset), where)
    gradInput.add_(grads[0])
    gradOffset.add_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of :func:`deform_conv_forward` to ``gradWeight``."""
    where = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The gradient of the weight does not depend on the weight: any tensor of its shape will do.
    grads = _deform_grads(gradOutput, _deform_inputs(input, gradWeight, offset), where)
    gradWeight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the modulated deformable convolution (arXiv:1811.11168) to ``output``.

    Args:
        offset: As in :func:`deform_conv_forward`.
        mask: ``(N, deformable_group * kernel_h * kernel_w, H', W')`` factors of the samples.
        bias: ``(C',)``, read if ``with_bias``.
    """
    where = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    inputs = _deform_inputs(input, weight, offset, mask, bias if with_bias else None)
    output.copy_(torch.ops.torchvision.deform_conv2d(*inputs, *where, True))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of :func:`modulated_deform_conv_forward` to the ``grad_*`` buffers."""
    where = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    grads = _deform_grads(grad_output, _deform_inputs(input, weight, offset, mask), where, True)
    buffers = (grad_input, grad_weight, grad_offset, grad_mask)
    for buffer, grad in zip(buffers, grads[:4], strict=True):
        buffer.add_(grad)
    if with_bias:
        grad_bias.add_(grads[4])


def _check_target(target: Tensor, num_classes: int) -> None:
    if target.numel() and (largest := int(target.max())) > num_classes:
        raise ValueError(
            f'focal loss: target holds {largest}, but with {num_classes} classes labels go up to '
            f'{num_classes - 1}, and {num_classes} is background.'
        )


def _one_hot(target: Tensor, num_classes: int) -> Tensor:
    return target[:, None] == torch.arange(num_classes, device=target.device)


def _class_weight(target: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """Weight of each sample, ``(N,)``: that of its class, 1 for samples outside [0, C)."""
    if not weight.numel():
        return like.new_ones(target.shape)
    inside = (target >= 0) & (target < len(weight))
    return torch.where(inside, weight.to(like.dtype)[torch.where(inside, target, 0)], 1)


def _log(probability: Tensor) -> Tensor:
    # mmcv's bound, the smallest normal float32, keeps the loss of a vanished probability finite.
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log()


def _binary(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sign of each logit's label, 1 - p and log(p) of that label, its factor; all ``(N, C)``."""
    (logits,) = wide(input)
    positive = _one_hot(target, logits.size(1))
    sign = positive.to(logits) * 2 - 1
    factor = torch.full_like(logits, 1 - alpha).masked_fill(positive, alpha)
    factor *= _class_weight(target, weight, logits)[:, None]
    return sign, torch.sigmoid(-sign * logits), F.logsigmoid(sign * logits), factor


def _own_class(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Probability of each sample's class and its factor (0 outside [0, C)), both ``(N,)``."""
    (probabilities,) = wide(input)
    inside = (target >= 0) & (target < probabilities.size(1))
    hit = probabilities.gather(1, torch.where(inside, target, 0)[:, None])[:, 0]
    return hit, alpha * (inside * _class_weight(target, weight, probabilities))


def _deform_inputs(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> list[Tensor]:
    """Arguments of torchvision's kernel in its order, with stand-ins for what is left out."""
    mask = input.new_zeros(len(input), 1) if mask is None else mask
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return wide(input, weight, offset, mask, bias)


def _deform_grads(
    grad_output: Tensor, inputs: list[Tensor], where: tuple[int, ...], use_mask: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of the input, weight, offset, mask and bias."""
    grad = grad_output.to(inputs[0].dtype)
    return torch.ops.torchvision._deform_conv2d_backward(grad, *inputs, *where, use_mask)
