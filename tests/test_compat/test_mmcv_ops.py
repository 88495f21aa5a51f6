"""Where mmcv finds its operators, and NMS on torchvision kernels against slow references."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from mmext.compat import mmcv_ops

if mmcv_ops.flavour() in ('compiled', 'absent'):
    pytest.skip('nothing is replaced: mmcv is compiled or absent', allow_module_level=True)
mmcv_ops.install()
ops = pytest.importorskip('mmcv.ops')
from mmcv import _ext  # noqa: E402

ROOT = Path(mmcv_ops.__file__).parents[2]
# Runs a copy of the module without the package, so nothing but its own imports can show up.
LOAD = (
    'import importlib.util as u, sys\n'
    f's = u.spec_from_file_location("alone", {str(mmcv_ops.__file__)!r})\n'
    'm = u.module_from_spec(s); s.loader.exec_module(m)\n'
)


def run(code, *paths, **env):
    """Run ``code`` in a new interpreter with ``paths`` first on its path."""
    path = os.pathsep.join([*map(str, paths), str(ROOT)])
    result = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': path, **env},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def random_boxes(n, seed=0, size=20.0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, size, (n, 2))
    return np.concatenate([low, low + rng.uniform(1, size, (n, 2))], 1)


# ---- the mechanism ---------------------------------------------------------------------------


def finders():
    return [f for f in sys.meta_path if type(f).__name__ == 'MmcvExtFinder']


def test_install_adds_one_finder_and_uninstall_removes_it():
    assert mmcv_ops.install() and mmcv_ops.install()
    assert len(finders()) == 1
    assert mmcv_ops.flavour() == 'torchvision'
    finder = finders()[0]
    assert finder.find_spec('mmcv.ops', None) is None
    assert finder.find_spec('mmcv._ext', None).name == 'mmcv._ext'
    try:
        mmcv_ops.uninstall()
        assert not finders() and mmcv_ops.flavour() == 'off'
    finally:
        assert mmcv_ops.install()


def test_installing_is_cheap_and_shared_between_copies():
    code = LOAD + (
        'assert m.flavour() == "off" and m.install() and m.flavour() == "torchvision"\n'
        'assert not {"torch", "torchvision", "mmcv", "numpy", "mmext"} & set(sys.modules)\n'
        'other = u.module_from_spec(s); s.loader.exec_module(other)\n'
        'assert other.install()\n'
        'print(sum(type(f).__name__ == "MmcvExtFinder" for f in sys.meta_path))\n'
        'other.uninstall(); print(m.flavour())'
    )
    assert run(code).split() == ['1', 'off']


def test_compiled_ext_is_left_alone(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').touch()
    (tmp_path / 'mmcv/_ext.py').write_text('nms = "compiled"')
    code = LOAD + (
        'print(m.flavour(), m.install(), "mmcv" in sys.modules)\n'
        'sys.meta_path.append(m.MmcvExtFinder())\n'  # even if it were there
        'import mmcv._ext; print(mmcv._ext.nms)'
    )
    assert run(code, tmp_path).split() == ['compiled', 'False', 'False', 'compiled']


@pytest.mark.parametrize('value', ['off', 'OFF', ''])
def test_environment_switch(tmp_path, value):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').touch()
    code = LOAD + (
        'print(m.install(), m.flavour())\n'
        'import importlib\n'
        'try:\n print((u.find_spec("mmcv._ext") or importlib.import_module("mmcv._ext")).origin)\n'
        'except ModuleNotFoundError as e: print(e)'
    )
    first, second = run(code, tmp_path, MMEXT_MMCV_OPS=value).splitlines()
    if value:
        assert (first, second) == ('False off', "No module named 'mmcv._ext'")
    else:
        assert first == 'True torchvision' and Path(second).name == '_mmcv_kernels.py'


def test_absent_mmcv(monkeypatch):
    mmcv_ops.uninstall()
    try:
        monkeypatch.setattr(mmcv_ops, 'find_spec', lambda name: None)
        assert mmcv_ops.flavour() == 'absent'
        assert mmcv_ops.install() is False and not finders()
    finally:
        monkeypatch.undo()
        mmcv_ops.install()


def test_mmdet_models_import():
    pytest.importorskip('mmdet')
    code = (
        'from mmext.compat import mmcv_ops; mmcv_ops.install()\n'
        'import mmdet.models, mmcv._ext; print(mmcv._ext.__file__)'
    )
    assert Path(run(code).splitlines()[-1]).name == '_mmcv_kernels.py'


def test_unsupported_operators_exist_and_explain():
    with pytest.raises(NotImplementedError, match="'box_iou_rotated'.*MMCV_WITH_OPS=1"):
        ops.box_iou_rotated(torch.rand(1, 5), torch.rand(1, 5))
    assert callable(_ext.some_operator_of_a_later_release)
    assert not hasattr(_ext, '__path__')


def test_environment_report():
    assert torchvision.__version__ in ops.get_compiler_version()
    assert isinstance(ops.get_compiling_cuda_version(), str)


# ---- NMS -------------------------------------------------------------------------------------


def box_iou(a, b, offset):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def slow_nms(boxes, scores, threshold, offset):
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        kept.append(left.pop(0))
        left = [i for i in left if box_iou(boxes[kept[-1]], boxes[i], offset) <= threshold]
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.7])
def test_nms(offset, threshold):
    boxes = random_boxes(60)
    scores = np.random.default_rng(1).permutation(60) / 60
    scores[:20] = 0.5  # ties
    expected = slow_nms(boxes, scores, threshold, offset)
    assert 1 < len(expected) < 60
    for dtype in (np.float32, np.float64):
        dets, keep = ops.nms(boxes.astype(dtype), scores.astype(dtype), threshold, offset)
        assert keep.tolist() == expected
        np.testing.assert_array_equal(dets[:, :4], boxes.astype(dtype)[expected])
        np.testing.assert_array_equal(dets[:, 4], scores.astype(dtype)[expected])


def test_nms_offset_widens_boxes():
    # Overlap (2 x 10): IoU 20/180 without the offset, (3 * 11)/(2 * 121 - 33) = 0.158 with it.
    boxes = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])
    scores = torch.tensor([0.9, 0.8])
    assert len(ops.nms(boxes, scores, 0.13, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.13, offset=1)[1]) == 1


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('threshold', [0.6, 0.7])
def test_nms_keeps_a_pair_at_exactly_the_threshold(dtype, threshold):
    boxes = torch.tensor([[0, 0, 10, 1], [0, 0, 10 * threshold, 1]], dtype=dtype)
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), threshold)[1]) == 2
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), threshold - 1e-3)[1]) == 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_nms_half(dtype):
    boxes = torch.tensor(random_boxes(40)).to(dtype)
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = slow_nms(boxes.tolist(), scores.tolist(), 0.4, 0)
    assert ops.nms(boxes, scores, 0.4)[1].tolist() == expected


def test_nms_score_threshold_max_num_and_empty():
    boxes, scores = torch.tensor(random_boxes(30)), torch.linspace(0.01, 1, 30).double()
    above = [i for i in slow_nms(boxes.tolist(), scores.tolist(), 0.5, 0) if scores[i] > 0.3]
    dets, keep = ops.nms(boxes, scores, 0.5, score_threshold=0.3, max_num=3)
    assert keep.tolist() == above[:3] and len(above) > 3
    dets, keep = ops.nms(boxes[:0], scores[:0], 0.5)
    assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.int64


@pytest.mark.parametrize('split_thr', [10000, 10])
@pytest.mark.parametrize('kind', ['nms', 'soft_nms'])
def test_batched_nms_treats_classes_apart(split_thr, kind):
    boxes, classes = random_boxes(40, 3), np.arange(40) % 3
    scores = np.random.default_rng(4).permutation(np.linspace(0.1, 1, 40))
    expected = []
    for c in range(3):
        own = np.flatnonzero(classes == c)
        if kind == 'nms':
            kept = [(scores[own[i]], own[i]) for i in slow_nms(boxes[own], scores[own], 0.4, 0)]
        else:
            rows = slow_softnms(boxes[own], scores[own], 0.4, 0.5, 0.2, 'linear', 0)
            kept = [(score, own[i]) for _, score, i in rows]
        expected += kept
    expected.sort(reverse=True)
    cfg = {'type': kind, 'iou_threshold': 0.4, 'split_thr': split_thr}
    if kind == 'soft_nms':
        cfg['min_score'] = 0.2
    args = torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes)
    dets, keep = ops.batched_nms(*args, cfg)
    assert keep.tolist() == [i for _, i in expected]
    np.testing.assert_allclose(dets[:, 4], [s for s, _ in expected], rtol=1e-9)
    np.testing.assert_array_equal(dets[:, :4], boxes[keep])


def slow_softnms(boxes, scores, threshold, sigma, min_score, method, offset):
    """One box at a time in a list; a dropped box is overwritten by the last one, as in mmcv."""
    rest = [(box, float(scores[i]), i) for i, box in enumerate(boxes)]
    for i in range(len(rest)):
        if i >= len(rest):
            break
        best = max(range(i, len(rest)), key=lambda j: rest[j][1])
        rest[i], rest[best] = rest[best], rest[i]
        j = i + 1
        while j < len(rest):
            box, score, index = rest[j]
            iou = box_iou(rest[i][0], box, offset)
            if method == 'gaussian':
                score *= math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                score *= 1 - iou if method == 'linear' else 0
            if score < min_score:
                rest[j] = rest[-1]
                rest.pop()
            else:
                rest[j] = (box, score, index)
                j += 1
    return rest


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('ties', [False, True])
def test_soft_nms(method, offset, ties):
    boxes = random_boxes(50, 5)
    scores = np.random.default_rng(6).permutation(np.linspace(0.1, 1, 50))
    if ties:
        scores = np.round(scores * 4) / 4
        boxes[10:20] += 1000  # ties untouched by others
    expected = slow_softnms(boxes, scores, 0.3, 0.5, 0.15, method, offset)
    assert 1 < len(expected) < 50
    dets, keep = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.15, method, offset)
    assert keep.tolist() == [i for _, _, i in expected]
    np.testing.assert_allclose(dets[:, 4], [s for _, s, _ in expected], rtol=1e-9)
    np.testing.assert_array_equal(dets[:, :4], boxes[keep])


def test_soft_nms_writes_into_the_buffer_and_handles_degenerate_input():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 9, 9], [9, 9, 9, 9]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    dets = torch.full((4, 5), -7.0)
    keep = _ext.softnms(
        boxes, scores, dets, iou_threshold=0.3, sigma=0.5, min_score=0.5, method=2, offset=0
    )
    # The copy decays to 0.8 * exp(-1 / 0.5); boxes without area do not touch each other.
    assert keep.tolist() == [0, 2, 3]
    assert torch.equal(dets[:3, 4], scores[keep]) and (dets[3:] == -7).all()
    assert torch.equal(scores, torch.tensor([0.9, 0.8, 0.7, 0.6]))
    dets, keep = ops.soft_nms(boxes[:0], scores[:0])
    assert dets.shape == (0, 5) and keep.dtype == torch.int64 and len(keep) == 0
    half = ops.soft_nms(boxes.half(), scores.half(), method='gaussian', min_score=0.5)
    assert half[0].dtype == torch.float16 and half[1].tolist() == [0, 2, 3]
