"""Boxes of one image in another view of it."""

import torch
from torch import Tensor


def project_boxes(
    boxes: Tensor, homography: Tensor, shape: tuple[int, int] | None = None
) -> Tensor:
    """Boxes of the objects in another view of an image (ours).

    Each object is taken to be the ellipse inscribed in its box, and the result is the box around
    the transformed ellipse. Under scaling and translation that is the transformed box. Under
    rotation and shear, the box around the four transformed corners, which MMDetection takes, is
    larger than the object. In self-training that feeds on itself: a student learns boxes that are
    too large, its teacher writes them, and with every round they grow.

    Args:
        boxes: ``(n, 4)``, x1, y1, x2, y2 in pixels.
        homography: ``(3, 3)`` to the other view.
        shape: Height and width of that view; boxes are clipped to it. None: they are not.

    Returns:
        ``(n, 4)``. Computed in float64, so also where autocast is on.
    """
    corners = boxes.double()
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    half = (corners[:, 2:] - corners[:, :2]) / 2
    # The unit circle moved to each ellipse and on to the other view.
    place = torch.zeros(len(boxes), 3, 3, dtype=torch.float64, device=boxes.device)
    place[:, 0, 0], place[:, 1, 1], place[:, 2, 2] = half[:, 0], half[:, 1], 1
    place[:, :2, 2] = centre
    place = homography.to(place) @ place
    # Its dual conic, whose tangents parallel to the axes are the sides of the box.
    circle = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64, device=boxes.device)
    conic = (place * circle) @ place.transpose(1, 2)
    diagonal, last = conic.diagonal(dim1=1, dim2=2), conic[:, 2, 2:]
    middle = conic[:, :2, 2] / last
    reach = (middle**2 - diagonal[:, :2] / last).clamp(min=0).sqrt()
    sides = torch.cat([middle - reach, middle + reach], dim=1)
    if shape is not None:
        limits = torch.tensor([shape[1], shape[0]] * 2, dtype=torch.float64, device=boxes.device)
        sides = sides.clamp(min=0).minimum(limits)
    return sides.to(boxes.dtype)
