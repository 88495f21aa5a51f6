"""The module ``mmcv._ext`` on torchvision's CPU and CUDA kernels.

:mod:`mmext.compat.mmcv_ops` runs this file under the name ``mmcv._ext``. Function names, argument
order and the habit of writing results into buffers of the caller are those of mmcv's Python code;
``mmcv.ops`` is the public interface. Gradients are added to the caller's buffers.

float16 and bfloat16 are computed in float32 and rounded once at the end, because torchvision's CPU
kernels lack them or accumulate in them. Unlike compiled mmcv, the focal losses and RoI pooling run
on the CPU too and float64 is accepted everywhere. Under
``torch.use_deterministic_algorithms(True)``, CUDA gradients that torchvision cannot compute
deterministically are an error.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Runs under the name mmcv._ext, hence no relative import.
from mmext.compat._mmcv_layers import (  # noqa: F401
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
    wide,
)

try:
    import torchvision
except ImportError as error:
    raise ImportError(
        'mmcv has no compiled operators here and mmext replaces them with those of torchvision, '
        'which cannot be imported: install the torchvision release that matches torch '
        f'{torch.__version__}.'
    ) from error

_kernels = torch.ops.torchvision


def get_compiler_version() -> str:
    """Return a text for environment reports: nothing was compiled for mmcv."""
    return f'none (mmext, torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Return the CUDA version of the torch build, as mmcv's environment report expects."""
    return torch.version.cuda or 'not available'


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap a better one by more than ``iou_threshold``.

    Args:
        boxes: ``(N, 4)`` as x1, y1, x2, y2.
        scores: ``(N,)``; of equal scores the lower index wins.
        iou_threshold: In [0, 1]; a pair at exactly this IoU is kept.
        offset: 0 or 1; a width is ``x2 - x1 + offset``.

    Returns:
        Tensor: int64 indices of the kept boxes, best first.
    """
    boxes, scores = wide(boxes, scores)
    # Moving the far corner by 1 adds 1 to widths, heights and the sides of every intersection.
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1) if offset else boxes
    # mmcv compares in the precision of the boxes, torchvision with a float64 threshold, which
    # would drop a pair at exactly 0.6, since 0.6 in float32 is above 0.6 in float64.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return _kernels.nms(boxes, scores, threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of overlapping boxes (Soft-NMS, arXiv:1704.04503), on the CPU.

    torchvision has no such kernel; this is NumPy, N steps of O(N).

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        dets: ``(N, 5)``; its first M rows receive the kept boxes and new scores, best first.
        iou_threshold: Overlap from which the naive and linear methods act.
        sigma: Width of the Gaussian method.
        min_score: Boxes whose score falls below are dropped; the very first box always stays.
        method: 0 naive (score 0), 1 linear (``1 - iou``), 2 Gaussian (``exp(-iou^2 / sigma)``).
        offset: 0 or 1, as in :func:`nms`.

    Returns:
        Tensor: ``(M,)`` int64 indices of the kept boxes in the order of ``dets``.
    """
    rows = torch.cat(wide(boxes, scores[:, None]), 1).detach().cpu().numpy()
    index = np.arange(len(rows))
    left, top, right, bottom, score = rows.T  # views
    area = (right - left + offset) * (bottom - top + offset)
    count = len(rows)
    step = 0
    while step < count:
        best = step + int(score[step:count].argmax())
        for column in (rows, index, area):
            column[[step, best]] = column[[best, step]]
        rest = slice(step + 1, count)
        width = np.minimum(right[rest], right[step]) - np.maximum(left[rest], left[step]) + offset
        height = np.minimum(bottom[rest], bottom[step]) - np.maximum(top[rest], top[step]) + offset
        overlap = width.clip(0) * height.clip(0)
        union = area[rest] + area[step] - overlap
        # Two boxes without area do not overlap; 0 / 0 would make the Gaussian weight a NaN.
        iou = np.divide(overlap, union, out=np.zeros_like(union), where=union != 0)
        if method == 2:
            score[rest] *= np.exp(-(iou * iou) / sigma)
        else:
            score[rest] *= np.where(iou >= iou_threshold, 0 if method == 0 else 1 - iou, 1)
        stays = ~(score[rest] < min_score)
        kept = int(stays.sum())
        # mmcv overwrites a dropped box with the last one, which decides later ties: gaps from the
        # front take survivors from the back.
        gaps = np.flatnonzero(~stays[:kept]) + step + 1
        movers = np.flatnonzero(stays[kept:])[::-1] + step + 1 + kept
        for column in (rows, index, area):
            column[gaps] = column[movers]
        step += 1
        count = step + kept
    dets[:count].copy_(torch.from_numpy(rows[:count]))
    return torch.from_numpy(index[:count])


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average bilinear samples of ``(N, C, H, W)`` in the bins of ``(K, 5)`` RoIs.

    ``output`` is ``(K, C, aligned_height, aligned_width)``; ``argmax_*`` belong to the max mode.

    Raises:
        NotImplementedError: ``pool_mode`` is 0 (max).
    """
    _check_average(pool_mode)
    features, boxes = wide(input, rois)
    bins = (spatial_scale, aligned_height, aligned_width)
    output.copy_(_kernels.roi_align(features, boxes, *bins, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, ``(N, C, H, W)``."""
    _check_average(pool_mode)
    grad, boxes = wide(grad_output, rois)
    bins = (spatial_scale, aligned_height, aligned_width, *grad_input.shape)
    grad_input.add_(_kernels._roi_align_backward(grad, boxes, *bins, sampling_ratio, aligned))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Take the maximum of ``(N, C, H, W)`` in each bin of ``(K, 5)`` RoIs.

    mmcv, unlike torchvision, does not round RoIs to whole pixels. Each of mmcv's bins is a
    rectangle of pixels, so torchvision pools it as a RoI of its own with one bin. Bins without
    pixels give 0 and no gradient.

    Args:
        output: ``(K, C, pooled_height, pooled_width)``, receives the maxima.
        argmax: int32 of the same shape, receives ``y * W + x`` of each maximum, -1 for none.
    """
    features, boxes = wide(input, rois)
    height, width = features.shape[2:]
    far = (boxes[:, 3:] + 1) * spatial_scale
    near = boxes[:, 1:3] * spatial_scale
    x1, x2 = _bin_edges(near[:, 0], far[:, 0], pooled_width, width)
    y1, y2 = _bin_edges(near[:, 1], far[:, 1], pooled_height, height)
    x1, x2, y1, y2 = x1[:, None], x2[:, None], y1[:, :, None], y2[:, :, None]
    filled = (x1 < x2) & (y1 < y2) & (near < far).all(1)[:, None, None]
    rectangles = torch.broadcast_tensors(boxes[:, 0, None, None], x1, y1, x2 - 1, y2 - 1)
    cells = torch.where(filled[..., None], torch.stack(rectangles, -1), 0).flatten(0, 2)
    maxima, places = _kernels.roi_pool(features, cells, 1.0, 1, 1)
    shape = (*filled.shape, features.shape[1])
    output.copy_(torch.where(filled[..., None], maxima.view(shape), 0).permute(0, 3, 1, 2))
    argmax.copy_(torch.where(filled[..., None], places.view(shape), -1).permute(0, 3, 1, 2))


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add ``grad_output`` to ``grad_input``, ``(N, C, H, W)``, where ``argmax`` points."""
    grad, boxes = wide(grad_output, rois)
    bins = (spatial_scale, pooled_height, pooled_width, *grad_input.shape)
    grad_input.add_(_kernels._roi_pool_backward(grad, boxes, argmax, *bins))


def __getattr__(name: str) -> Callable[..., None]:
    """Stand in for every other operator: importable, an error with the fix when called."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def unavailable(*args: object, **kwargs: object) -> None:
        raise _not_available(f'operator {name!r}')

    unavailable.__name__ = unavailable.__qualname__ = name
    return unavailable


def _not_available(what: str) -> NotImplementedError:
    return NotImplementedError(
        f'mmcv {what} needs mmcv with compiled operators; mmext replaces only those that '
        'torchvision has kernels for. Uninstall mmcv-lite, then `mim install mmcv` where a wheel '
        'for your torch and CUDA exists, or build it under a torch it supports: '
        "`MMCV_WITH_OPS=1 pip install 'mmcv>=2.0' --no-binary mmcv --no-build-isolation`."
    )


def _check_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise _not_available("operator 'roi_align' with pool_mode='max'")


def _bin_edges(near: Tensor, far: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """First and past-the-last pixel, each ``(K, count)``, of equal parts of ``[near, far)``."""
    size = ((far - near) / count)[:, None]
    index = torch.arange(count, dtype=near.dtype, device=near.device)
    first = (index * size + near[:, None]).floor().clamp(0, limit)
    return first, ((index + 1) * size + near[:, None]).ceil().clamp(0, limit)
