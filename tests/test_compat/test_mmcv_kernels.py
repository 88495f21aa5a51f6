"""RoI, focal loss and deformable convolution operators against slow references written here."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.autograd import gradcheck

from mmext.compat import mmcv_ops

if mmcv_ops.flavour() in ('compiled', 'absent'):
    pytest.skip('nothing is replaced: mmcv is compiled or absent', allow_module_level=True)
mmcv_ops.install()
ops = pytest.importorskip('mmcv.ops')
from mmcv import _ext  # noqa: E402


def random_rois(n, batch, limit):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, limit / 2, (n, 2))
    high = low + rng.uniform(1, limit / 2, (n, 2))
    return torch.tensor(np.concatenate([rng.integers(0, batch, (n, 1)), low, high], 1))


# ---- RoI align and pool ----------------------------------------------------------------------


def bilinear(plane, y, x):
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = plane[y0, x0] * (1 - (x - x0)) + plane[y0, x1] * (x - x0)
    bottom = plane[y1, x0] * (1 - (x - x0)) + plane[y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def slow_roi_align(features, rois, size, scale, ratio, aligned):
    out = np.zeros((len(rois), features.shape[1], *size))
    for k, roi in enumerate(rois):
        x1, y1, x2, y2 = roi[1:] * scale - (0.5 if aligned else 0.0)
        extent = [y2 - y1, x2 - x1]
        if not aligned:
            extent = [max(e, 1.0) for e in extent]
        step = [e / s for e, s in zip(extent, size, strict=True)]
        grid = [ratio or math.ceil(s) for s in step]
        for c, i, j in np.ndindex(out.shape[1:]):
            values = [
                bilinear(
                    features[int(roi[0]), c],
                    y1 + (i + (a + 0.5) / grid[0]) * step[0],
                    x1 + (j + (b + 0.5) / grid[1]) * step[1],
                )
                for a in range(grid[0])
                for b in range(grid[1])
            ]
            out[k, c, i, j] = sum(values) / max(len(values), 1)
    return out


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize(('scale', 'size'), [(1.0, (2, 3)), (0.5, (3, 1))])
def test_roi_align(aligned, ratio, scale, size):
    features = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    rois = random_rois(4, 2, 8 / scale)
    rois[3, 1:] = torch.tensor([-9.0, -9.0, 60.0, 50.0])  # far outside the map
    expected = slow_roi_align(features.numpy(), rois.numpy(), size, scale, ratio, aligned)
    got = ops.roi_align(features, rois, size, scale, ratio, 'avg', aligned)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    layer = ops.RoIAlign(size, scale, ratio, aligned=aligned)
    np.testing.assert_allclose(layer(features.float(), rois.float()), expected, atol=1e-5)
    features.requires_grad_()
    assert gradcheck(
        lambda f: ops.roi_align(f, rois, size, scale, ratio, 'avg', aligned), features, atol=1e-6
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', ['roi_align', 'roi_pool'])
def test_roi_ops_half(name, dtype):
    features = torch.randn(1, 2, 8, 8).to(dtype).requires_grad_()
    rois = torch.tensor([[0.0, 1, 1, 6, 7], [0, 0, 2, 3.5, 4]], dtype=dtype)
    exact = features.detach().double().requires_grad_()
    op = getattr(ops, name)
    out, expected = op(features, rois, 2), op(exact, rois.double(), 2)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)
    out.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(features.grad, exact.grad.to(dtype), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('name', ['roi_align', 'roi_pool'])
def test_roi_ops_without_rois(name):
    features = torch.randn(2, 3, 5, 5, requires_grad=True)
    out = getattr(ops, name)(features, torch.zeros(0, 5), (2, 4))
    assert out.shape == (0, 3, 2, 4)
    out.sum().backward()
    assert features.grad.shape == features.shape and not features.grad.any()


def test_roi_align_max_mode_says_no():
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        ops.roi_align(torch.rand(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, 'max', True)


def slow_roi_pool(features, rois, size, scale):
    """Bins of mmcv: RoIs are not rounded, the far pixel belongs to them."""
    _, channels, height, width = features.shape
    out = np.zeros((len(rois), channels, *size))
    argmax = np.full(out.shape, -1)
    for k, roi in enumerate(rois):
        x1, y1 = roi[1:3] * scale
        x2, y2 = (roi[3:] + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        for c, i, j in np.ndindex(out.shape[1:]):
            top, bottom = (y1 + (y2 - y1) * e / size[0] for e in (i, i + 1))
            left, right = (x1 + (x2 - x1) * e / size[1] for e in (j, j + 1))
            pixels = [
                (features[int(roi[0]), c, y, x], -(y * width + x))
                for y in range(max(math.floor(top), 0), min(math.ceil(bottom), height))
                for x in range(max(math.floor(left), 0), min(math.ceil(right), width))
            ]
            if pixels:
                best = max(pixels)
                out[k, c, i, j], argmax[k, c, i, j] = best[0], -best[1]
    return out, argmax


@pytest.mark.parametrize(('scale', 'size'), [(1.0, (2, 2)), (0.5, (3, 2)), (0.25, (1, 4))])
def test_roi_pool(scale, size):
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    features[:, 0] = features[:, 0].round()  # ties go to the first pixel
    rois = random_rois(6, 2, 10 / scale)
    rois[4, 1:] = torch.tensor([90.0, 90.0, 99.0, 99.0])  # outside
    rois[5, 1:] = torch.tensor([3.5, 3.5, 2.45, 2.45])  # malformed: ends before it starts
    expected, places = slow_roi_pool(features.numpy(), rois.numpy(), size, scale)
    features.requires_grad_()
    out = ops.roi_pool(features, rois, size, scale)
    np.testing.assert_array_equal(out.detach(), expected)
    argmax = torch.full(out.shape, 5, dtype=torch.int)
    _ext.roi_pool_forward(features.detach(), rois, out.detach(), argmax, *size, scale)
    np.testing.assert_array_equal(argmax, places)

    grad = torch.randn(out.shape, dtype=torch.float64)
    out.backward(grad)
    gradient = np.zeros(features.shape)
    for k, c, i, j in np.ndindex(*out.shape):
        if places[k, c, i, j] >= 0:
            y, x = divmod(places[k, c, i, j], features.shape[3])
            gradient[int(rois[k, 0]), c, y, x] += grad[k, c, i, j]
    np.testing.assert_allclose(features.grad, gradient, atol=1e-12)


def test_roi_pool_equals_torchvision_on_whole_pixels():
    features = torch.randn(2, 3, 9, 9)
    rois = torch.tensor([[0.0, 0, 1, 5, 8], [1, 2, 2, 7, 5]])
    expected = torchvision.ops.roi_pool(features, rois, (4, 2))
    assert torch.equal(ops.roi_pool(features, rois, (4, 2)), expected)


# ---- focal losses ----------------------------------------------------------------------------


def formula_sigmoid(logits, target, gamma, alpha, weight):
    label = F.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits)
    p = logits.sigmoid()
    loss = -(alpha * label * (1 - p) ** gamma * p.log())
    loss = loss - (1 - alpha) * (1 - label) * p**gamma * (1 - p).log()
    extended = torch.cat([weight, weight.new_ones(1)])  # background counts once
    return loss * extended[target][:, None]


def formula_softmax(logits, target, gamma, alpha, weight):
    p = logits.softmax(1)[torch.arange(len(logits)), target]
    return -alpha * (1 - p) ** gamma * p.log() * weight[target]


@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('gamma', [2.0, 0.5, 0.0])
@pytest.mark.parametrize('weighted', [False, True])
def test_focal_loss(kind, gamma, weighted):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(8, 4, dtype=torch.float64, generator=generator)
    target = torch.tensor([0, 1, 2, 3, 0, 1, 4, 4] if kind == 'sigmoid' else [0, 1, 2, 3] * 2)
    weight = torch.rand(4, dtype=torch.float64, generator=generator) if weighted else None
    formula = {'sigmoid': formula_sigmoid, 'softmax': formula_softmax}[kind]
    ones = torch.ones(4, dtype=torch.float64)
    op = getattr(ops, f'{kind}_focal_loss')
    results = {}
    for reduction in ('none', 'mean', 'sum'):
        results[reduction] = op(logits, target, gamma, 0.3, weight, reduction)
    exact = formula(logits, target, gamma, 0.3, ones if weight is None else weight)
    torch.testing.assert_close(results['none'], exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(results['sum'], exact.sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close(results['mean'], exact.sum() / 8, rtol=1e-9, atol=0)

    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    op(ours, target, gamma, 0.3, weight, 'mean').backward()
    (formula(theirs, target, gamma, 0.3, ones if weight is None else weight).sum() / 8).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_sigmoid_focal_loss_equals_torchvision_and_survives_saturation():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 0.3]], requires_grad=True)
    target = torch.tensor([0, 0])
    expected = torchvision.ops.sigmoid_focal_loss(logits, F.one_hot(target, 2).float())
    loss = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected = torch.autograd.grad(expected.sum(), logits)[0]
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize('gamma', [2.0, 0.5, 0.0])
def test_softmax_focal_loss_saturated(gamma):
    logits = torch.tensor([[300.0, 0.0], [0.0, 300.0]], requires_grad=True)
    loss = ops.softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 1.0, None, 'sum')
    loss.backward()
    # p = 1 costs nothing; p = 0 is bounded by the smallest normal float32, 2^-126.
    torch.testing.assert_close(loss, torch.tensor(126 * math.log(2)))
    assert not logits.grad[0].any() and logits.grad.isfinite().all()


def test_softmax_focal_loss_ignores_samples_without_a_class():
    probabilities = torch.tensor([[0.2, 0.8], [0.2, 0.8], [0.2, 0.8]])
    target, weight = torch.tensor([1, -1, 2]), torch.tensor([3.0, 5.0])
    out, buff, grad = torch.empty(3), torch.empty(3), torch.zeros(3, 2)
    _ext.softmax_focal_loss_forward(probabilities, target, weight, out, gamma=2.0, alpha=0.5)
    torch.testing.assert_close(out, torch.tensor([-5 * 0.5 * 0.04 * math.log(0.8), 0, 0]))
    _ext.softmax_focal_loss_backward(
        probabilities, target, weight, buff, grad, gamma=2.0, alpha=0.5
    )
    assert grad[0].all() and not grad[1:].any()


@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss_empty_half_and_bad_target(kind):
    op = getattr(ops, f'{kind}_focal_loss')
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = op(empty, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, 'sum')
    loss.backward()
    assert loss.item() == 0 and empty.grad.shape == (0, 3)
    with pytest.raises(ValueError, match='target holds 9'):
        op(torch.zeros(1, 3), torch.tensor([9]), 2.0, 0.25, None, 'sum')
    logits = torch.randn(6, 3).half().requires_grad_()
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = op(logits, target, 2.0, 0.25, torch.ones(3).half(), 'none')
    expected = op(logits.double(), target, 2.0, 0.25, None, 'none')
    assert loss.dtype == torch.float16
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=1e-3)


# ---- deformable convolutions -----------------------------------------------------------------

GEOMETRIES = [
    {'stride': 1, 'padding': 1, 'dilation': 1, 'groups': 1},
    {'stride': (2, 1), 'padding': (0, 2), 'dilation': (1, 2), 'groups': 2},
]


def deform_case(geometry, deform_groups, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    x = randn(batch, 4, 5, 6)
    weight = randn(6, 4 // geometry['groups'], 3, 2)
    size = F.conv2d(x.double(), weight.double(), **geometry).shape[2:]
    offset = randn(batch, 2 * 6 * deform_groups, *size)
    mask = randn(batch, 6 * deform_groups, *size)
    return x, weight, randn(6), offset, mask


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv_without_offset_is_a_convolution(geometry):
    x, weight, bias, offset, mask = deform_case(geometry, 2)
    expected = F.conv2d(x, weight, **geometry)
    zero = torch.zeros_like(offset)
    out = ops.deform_conv2d(x, zero, weight, *geometry.values(), 2)
    torch.testing.assert_close(out, expected)
    out = ops.modulated_deform_conv2d(
        x, zero, torch.full_like(mask, 0.5), weight, bias, *geometry.values(), 2
    )
    torch.testing.assert_close(out, 0.5 * expected + bias[:, None, None])


def test_deform_conv_offset_order_is_y_then_x():
    x = torch.arange(20.0).view(1, 1, 4, 5)
    offset = torch.zeros(1, 2, 4, 5)
    offset[:, 0] = 1.0  # one row down
    out = ops.deform_conv2d(x, offset, torch.ones(1, 1, 1, 1))
    assert torch.equal(out[0, 0, :3], x[0, 0, 1:]) and not out[0, 0, 3].any()


@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('deform_groups', [1, 2])
@pytest.mark.parametrize('modulated', [False, True])
def test_deform_conv_against_a_bilinear_loop_and_torchvision(geometry, deform_groups, modulated):
    x, weight, bias, offset, mask = deform_case(geometry, deform_groups)
    leaves = [x, offset, mask, weight, bias] if modulated else [x, offset, weight]
    ours = [leaf.clone().requires_grad_() for leaf in leaves]
    op = ops.modulated_deform_conv2d if modulated else ops.deform_conv2d
    out = op(*ours, *geometry.values(), deform_groups)
    mask, bias = (mask, bias) if modulated else (torch.ones_like(mask), torch.zeros_like(bias))
    expected = slow_deform_conv(x, weight, bias, offset, mask, geometry, deform_groups)
    np.testing.assert_allclose(out.detach(), expected, atol=1e-10)

    theirs = [leaf.clone().requires_grad_() for leaf in leaves]
    named = dict(zip(['input', 'offset', 'mask', 'weight', 'bias'], theirs, strict=False))
    if not modulated:
        named['weight'] = named.pop('mask')
    places = {k: geometry[k] for k in ('stride', 'padding', 'dilation')}
    grad = torch.randn_like(out)
    torchvision.ops.deform_conv2d(**named, **places).backward(grad)
    out.backward(grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def slow_deform_conv(x, weight, bias, offset, mask, geometry, deform_groups):
    """The definition, one output at a time, zero outside the map."""
    (sh, sw), (ph, pw), (dh, dw) = (
        np.broadcast_to(geometry[k], 2) for k in ('stride', 'padding', 'dilation')
    )
    x, weight, offset, mask = (t.numpy() for t in (x, weight, offset, mask))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(x), len(weight), *offset.shape[2:]))
    inner, kh, kw = weight.shape[1:]
    for n, o, i, j in np.ndindex(out.shape):
        total = float(bias[o])
        for c, a, b in np.ndindex(inner, kh, kw):
            channel = o // (len(weight) // geometry['groups']) * inner + c
            tap = channel // (x.shape[1] // deform_groups) * kh * kw + a * kw + b
            y = i * sh - ph + a * dh + offset[n, 2 * tap, i, j]
            z = j * sw - pw + b * dw + offset[n, 2 * tap + 1, i, j]
            if -1 < y < x.shape[2] and -1 < z < x.shape[3]:
                value = bilinear(padded[n, channel], y + 1, z + 1)
                total += weight[o, c, a, b] * mask[n, tap, i, j] * value
        out[n, o, i, j] = total
    return out


@pytest.mark.parametrize('modulated', [False, True])
def test_deform_conv_gradcheck(modulated):
    geometry = {'stride': 1, 'padding': 1, 'dilation': 1, 'groups': 2}
    x, weight, bias, offset, mask = deform_case(geometry, 1, batch=1)
    x, offset, mask = x[:, :, :3, :3], offset[:, :, :3, :4], mask[:, :, :3, :4]
    leaves = [x, offset, mask, weight, bias] if modulated else [x, offset, weight]
    op = ops.modulated_deform_conv2d if modulated else ops.deform_conv2d
    leaves = [leaf.contiguous().requires_grad_() for leaf in leaves]
    assert gradcheck(lambda *t: op(*t, *geometry.values(), 1), leaves, fast_mode=True)


def test_deform_conv_gradients_are_added_to_the_buffers():
    geometry = {'stride': 1, 'padding': 1, 'dilation': 1, 'groups': 1}
    x, weight, _, offset, _ = deform_case(geometry, 1)
    grad = torch.randn_like(F.conv2d(x, weight, **geometry))
    keys = {'kW': 2, 'kH': 3, 'dW': 1, 'dH': 1, 'padW': 1, 'padH': 1, 'dilationW': 1}
    keys |= {'dilationH': 1, 'group': 1, 'deformable_group': 1, 'im2col_step': 2}

    def gradients(start, scale):
        gx, go, gw = (torch.full_like(t, start) for t in (x, offset, weight))
        none = x.new_empty(0)
        _ext.deform_conv_backward_input(x, offset, grad, gx, go, weight, none, **keys)
        _ext.deform_conv_backward_parameters(x, offset, grad, gw, none, none, scale=scale, **keys)
        return gx, go, gw

    plain, shifted = gradients(0.0, 1.0), gradients(1.0, 0.5)
    assert all(t.abs().max() > 0.1 for t in plain)
    for a, b, scale in zip(plain, shifted, (1, 1, 0.5), strict=True):
        torch.testing.assert_close(b, 1 + scale * a)


@pytest.mark.parametrize('layer', ['DeformConv2dPack', 'ModulatedDeformConv2dPack'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_deform_conv_half(layer, dtype):
    layer = getattr(ops, layer)(4, 4, 3, padding=1, groups=2, deform_groups=2)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.02)
    torch.nn.init.constant_(layer.conv_offset.bias, 0.3)
    x = torch.randn(2, 4, 5, 5)
    expected = layer(x)
    expected.sum().backward()
    grad = layer.weight.grad.clone()
    layer.zero_grad()
    with torch.autocast('cpu', dtype=dtype):
        out = layer(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.1)
    out.float().sum().backward()
    torch.testing.assert_close(layer.weight.grad, grad, rtol=0.05, atol=0.5)
