import math

import numpy as np
import pytest
import torch
from torch import nn

from mmext.plugins.cst.functional import (
    CONSISTENCY_KINDS,
    cross_iou,
    distribution_consistency,
    ema_update,
    fuse_detections,
    jensen_shannon,
    odds_distribution,
    paired_iou,
    project_boxes,
    ramp,
)


def distributions(n=50, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, n, classes + 1, generator=generator, dtype=torch.float64).softmax(-1) ** 3


def normalised(p):
    return p / p.sum(-1, keepdim=True)


@pytest.mark.parametrize('kind', CONSISTENCY_KINDS)
def test_equal_distributions_give_one_and_all_are_in_range(kind):
    p, q = normalised(distributions())
    torch.testing.assert_close(distribution_consistency(p, p, kind), torch.ones(50).double())
    w = distribution_consistency(p, q, kind)
    assert w.shape == (50,) and (w >= 0).all() and (w <= 1).all()
    assert kind == 'none' or (w < 1).any()


def test_js_against_a_loop_in_numpy():
    p, q = normalised(distributions())
    expected = []
    for a, b in zip(p.numpy(), q.numpy(), strict=True):
        m = (a + b) / 2
        js = 0.5 * np.sum(a * np.log(a / m)) + 0.5 * np.sum(b * np.log(b / m))
        expected.append(1 - js / math.log(2))
    np.testing.assert_allclose(distribution_consistency(p, q, 'js').numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        jensen_shannon(p, q).numpy(), (1 - np.array(expected)) * math.log(2), rtol=1e-9
    )


def test_exp_kl_and_score_against_a_loop_in_numpy():
    p, q = normalised(distributions(seed=1))
    kl = [np.sum(a * np.log(a / b)) for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    np.testing.assert_allclose(
        distribution_consistency(p, q, 'exp_kl').numpy(), np.exp(-np.array(kl))
    )
    score = []
    for a, b in zip(p.numpy(), q.numpy(), strict=True):
        c = a[:-1].argmax()
        score.append(min(1.0, b[c] / a[c]))
    np.testing.assert_allclose(distribution_consistency(p, q, 'score').numpy(), score)


def test_disjoint_distributions_have_no_consistency():
    p = torch.tensor([[1.0, 0.0, 0.0]])
    q = torch.tensor([[0.0, 1.0, 0.0]])
    for kind in ('js', 'exp_kl', 'score'):
        assert distribution_consistency(p, q, kind).item() < 1e-6


def test_no_boxes():
    empty = torch.zeros(0, 5)
    for kind in CONSISTENCY_KINDS:
        assert distribution_consistency(empty, empty, kind).shape == (0,)
    assert odds_distribution(torch.zeros(0, 4)).shape == (0, 5)
    assert cross_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)


def test_bad_arguments():
    p = torch.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match='kind=.cosine.'):
        distribution_consistency(p, p, 'cosine')
    with pytest.raises(ValueError, match='one shape'):
        distribution_consistency(p, p[:1])


def test_odds_distribution_is_the_conditional_bernoulli():
    s = torch.tensor([[0.2, 0.7], [0.5, 0.5]], dtype=torch.float64)
    p = odds_distribution(s, power=1.0)
    for (a, b), got in zip(s.tolist(), p.tolist(), strict=True):
        only_a, only_b, none = a * (1 - b), b * (1 - a), (1 - a) * (1 - b)
        total = only_a + only_b + none
        np.testing.assert_allclose(got, [only_a / total, only_b / total, none / total], rtol=1e-6)
    sharper = odds_distribution(s, power=2.0)
    assert sharper[0].max() > p[0].max()
    torch.testing.assert_close(sharper.sum(1), torch.ones(2).double())


def test_iou_against_a_loop():
    boxes = torch.tensor([[0, 0, 4, 4], [2, 2, 6, 6], [10, 10, 11, 11]], dtype=torch.float64)
    expected = torch.tensor([[1, 4 / 28, 0], [4 / 28, 1, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(cross_iou(boxes, boxes), expected)
    torch.testing.assert_close(paired_iou(boxes, boxes.flip(0)), expected.flip(0).diagonal())


def test_fusion_of_two_detectors():
    one = (
        torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]),
        torch.tensor([0.9, 0.6]),
        torch.tensor([1, 2]),
    )
    other = (
        torch.tensor([[1.0, 0, 11, 10], [20, 20, 30, 30]]),
        torch.tensor([0.3, 0.8]),
        torch.tensor([1, 0]),
    )
    boxes, scores, labels = fuse_detections(one, other, 0.5)
    # The first boxes pair up; the second ones coincide but are of different classes.
    torch.testing.assert_close(scores, torch.tensor([0.6, 0.4, 0.3]))
    assert labels.tolist() == [1, 0, 2]
    torch.testing.assert_close(boxes[0], torch.tensor([0.25, 0, 10.25, 10]))
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    boxes, scores, labels = fuse_detections(one, nothing, 0.5)
    torch.testing.assert_close(scores, one[1] / 2)


def test_fusing_a_detector_with_itself_changes_nothing():
    one = (
        torch.tensor([[0.0, 0, 9, 9], [30, 30, 50, 50]]),
        torch.tensor([0.9, 0.5]),
        torch.tensor([1, 1]),
    )
    boxes, scores, labels = fuse_detections(one, one, 0.5)
    torch.testing.assert_close(boxes, one[0])
    torch.testing.assert_close(scores, one[1])


def test_ramp():
    assert [ramp(i, 2, 4) for i in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [ramp(i, 2, 0) for i in range(4)] == [0, 0, 1, 1]


def test_ema_against_hand_computation_with_buffers():
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2))
    student(torch.randn(5, 3))
    before = {name: value.clone().double() for name, value in teacher.state_dict().items()}
    ema_update(teacher, student, 0.1)
    of_student = student.state_dict()
    assert not torch.equal(of_student['1.running_mean'], before['1.running_mean'])
    for name, got in teacher.state_dict().items():
        if name == '1.num_batches_tracked':
            assert got == of_student[name] == 1
            continue
        expected = 0.9 * before[name] + 0.1 * of_student[name].double()
        torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-7)
    ema_update(teacher, student, 1.0)
    for name, got in teacher.state_dict().items():
        assert torch.equal(got, of_student[name])


def test_ema_can_leave_buffers_alone():
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    student(torch.randn(5, 2))
    ema_update(teacher, student, 0.5, skip_buffers=True)
    assert torch.equal(teacher.running_mean, torch.zeros(2))


def rotation(degrees):
    turn = math.radians(degrees)
    return torch.tensor(
        [[math.cos(turn), -math.sin(turn), 30], [math.sin(turn), math.cos(turn), 5], [0, 0, 1.0]]
    )


def test_boxes_that_are_scaled_and_moved_are_those_of_their_corners():
    boxes = torch.tensor([[10.0, 20, 50, 40], [0, 0, 30, 30]])
    view = torch.tensor([[1.5, 0, 3], [0, 0.5, -2], [0, 0, 1]])
    expected = torch.tensor([[18.0, 8, 78, 18], [3, 0, 48, 13]])
    torch.testing.assert_close(project_boxes(boxes, view, (100, 100)), expected)
    assert project_boxes(boxes[:0], view, (100, 100)).shape == (0, 4)


@pytest.mark.parametrize('tilt', [0.0, 1e-3])
def test_boxes_are_around_the_transformed_ellipse(tilt):
    """Against the extremes of many points of the ellipse; with perspective, too."""
    view = rotation(25)
    view[2, 0], view[2, 1] = tilt, tilt / 2
    box = torch.tensor([[10.0, 20, 50, 40]])
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
    x, y = 30 + 20 * angle.cos(), 30 + 10 * angle.sin()
    points = view.double() @ torch.stack([x, y, torch.ones_like(x)])
    points = (points[:2] / points[2]).float()
    expected = torch.cat([points.min(1).values, points.max(1).values])[None]
    torch.testing.assert_close(project_boxes(box, view, (200, 200)), expected)


def test_boxes_do_not_grow_from_teacher_to_student_to_teacher():
    box = torch.tensor([[40.0, 40, 80, 60]])
    there, back = rotation(12), rotation(12).inverse()
    for _ in range(5):
        box = project_boxes(project_boxes(box, there, (200, 200)), back, (200, 200))
    area = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).item()
    # The box around the corners grows to more than tenfold.
    assert area < 1.8 * 40 * 20


def test_boxes_end_at_the_border_and_are_exact_under_autocast():
    boxes = torch.tensor([[1001.0, 1003, 1301, 1303]])
    view = torch.eye(3)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(project_boxes(boxes, view, (1400, 1400)), boxes)
        assert project_boxes(boxes, view, (1100, 1200)).tolist() == [[1001, 1003, 1200, 1100]]
