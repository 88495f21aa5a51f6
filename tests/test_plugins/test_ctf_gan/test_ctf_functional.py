"""The losses and image operations against independent arithmetic."""

import math

import numpy as np
import pytest
import torch

from mmext.plugins.ctf_gan import functional as F


def test_hinge_losses():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    loss_real, loss_fake = F.hinge_disc(real, fake)
    assert loss_real.item() == pytest.approx((0 + 0.5 + 2) / 3)
    assert loss_fake.item() == pytest.approx((0 + 1 + 2) / 3)
    assert F.hinge_gen(fake).item() == pytest.approx(2 / 3)


def test_turned_images_are_numpys():
    images = torch.arange(2 * 3 * 16.0).view(2, 3, 4, 4)
    expected = [np.rot90(images.numpy(), k, (2, 3)) for k in (1, 2, 3)]
    assert np.array_equal(F.turned(images).numpy(), np.concatenate(expected))


def test_turning_needs_squares():
    with pytest.raises(ValueError, match='square images'):
        F.turned(torch.zeros(1, 1, 4, 5))


def test_rotation_loss_and_accuracy():
    assert F.rotation_loss(torch.zeros(8, 4)).item() == pytest.approx(math.log(4))
    perfect = 50 * torch.eye(4).repeat_interleave(2, 0)
    assert F.rotation_loss(perfect).item() < 1e-6
    assert F.rotation_accuracy(perfect) == 1
    assert F.rotation_accuracy(perfect.roll(2, 0)) == 0


def test_shrink_is_the_box_average():
    images = torch.rand(2, 1, 8, 8)
    assert torch.allclose(F.shrink(images, 4), images.view(2, 1, 4, 2, 4, 2).mean((3, 5)))


def test_enlarge_keeps_the_mean_of_a_ramp():
    ramp = torch.linspace(0, 1, 4).expand(1, 1, 4, 4)
    large = F.enlarge(ramp, 8)
    assert large.shape == (1, 1, 8, 8) and large.mean().item() == pytest.approx(0.5, abs=1e-6)


def test_injection():
    feature, change = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(F.inject(feature, change, torch.zeros(3)), feature)
    moved = F.inject(feature, change, torch.tensor([1.0, 0.0, -2.0]))
    assert torch.allclose(moved[:, 0], feature[:, 0] + change[:, 0])
    assert torch.allclose(moved[:, 2], feature[:, 2] - 2 * change[:, 2])


def test_masked_l1_takes_only_what_the_mask_selects():
    output, target = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    target[2] = 100
    mask = torch.tensor([True, True, False])
    assert F.masked_l1(output, target, mask) == 1
    assert F.masked_l1(output, target, torch.zeros(3, dtype=torch.bool)) == 0


def test_slerp_goes_along_the_arc_in_equal_angles():
    torch.manual_seed(0)
    start, end = torch.randn(2, 16, dtype=torch.float64)
    end = end * start.norm() / end.norm()
    points = F.slerp(start, end, 5)
    assert torch.allclose(points[0], start) and torch.allclose(points[-1], end)
    assert torch.allclose(points.norm(dim=1), start.norm().expand(5))
    unit = points / points.norm(dim=1, keepdim=True)
    angles = (unit[1:] * unit[:-1]).sum(1).acos()
    assert torch.allclose(angles, angles[0].expand(4))


def test_slerp_of_parallel_vectors_is_a_line():
    start = torch.tensor([1.0, 2.0])
    assert torch.allclose(F.slerp(start, 3 * start, 3)[1], 2 * start)
    with pytest.raises(ValueError, match='at least 2'):
        F.slerp(start, start, 1)
