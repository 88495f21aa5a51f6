"""Boxes in rotated and sheared views."""

import math

import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes

from mmext.datasets.box_views import project_boxes


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


def test_boxes_outside_the_view_stay_where_no_shape_is_given():
    boxes = torch.tensor([[10.0, 20, 50, 40]])
    view = torch.eye(3)
    view[0, 2] = -30
    assert project_boxes(boxes, view).tolist() == [[-20, 20, 20, 40]]


@pytest.mark.parametrize('kind', ['Rotate', 'ShearX', 'ShearY'])
def test_mmdetections_transforms_move_the_ellipses(kind):
    def turned(*more):
        np.random.seed(3)
        boxes = HorizontalBoxes(torch.tensor([[40.0, 30, 80, 50]]))
        results = dict(
            img=np.zeros((100, 120, 3), np.uint8), img_shape=(100, 120), gt_bboxes=boxes,
            gt_bboxes_labels=np.array([1]), gt_ignore_flags=np.array([False]),
        )  # fmt: skip
        steps = [*more, dict(type=kind, prob=1.0, level=10)]
        for step in steps:
            results = TRANSFORMS.build(step)(results)
        return results['gt_bboxes'].tensor, results['homography_matrix']

    plain, view = turned()
    ellipse, same = turned(dict(type='mmext.ToEllipseBoxes'))
    assert (view == same).all()
    box = torch.tensor([[40.0, 30, 80, 50]])
    torch.testing.assert_close(ellipse, project_boxes(box, torch.tensor(view), (100, 120)))
    area = [((b[0, 2] - b[0, 0]) * (b[0, 3] - b[0, 1])).item() for b in (plain, ellipse)]
    assert area[0] > 1.05 * area[1] > 0


def test_a_copy_of_the_boxes_is_not_changed():
    tensor = torch.tensor([[40.0, 30, 80, 50]])
    results = TRANSFORMS.build(dict(type='mmext.ToEllipseBoxes'))(
        dict(gt_bboxes=HorizontalBoxes(tensor))
    )
    copied = results['gt_bboxes'].clone()
    copied.project_(rotation(30))
    assert torch.equal(results['gt_bboxes'].tensor, tensor)
    assert type(copied) is type(results['gt_bboxes'])
