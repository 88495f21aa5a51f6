"""Losses and image operations of CTF-GAN on plain tensors.

The paper's equations could not be read. The hinge loss is SN-GAN's (arXiv 1802.05957 and its code),
the rotation task SS-GAN's (arXiv 1811.11212); the rest is ours.
"""

import torch
from torch import Tensor, nn

#: Quarter turns of the rotation task.
ROTATIONS = 4


def hinge_disc(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Hinge loss of the discriminator, for real and for fake scores (any shapes)."""
    return (1 - real).relu().mean(), (1 + fake).relu().mean()


def hinge_gen(fake: Tensor) -> Tensor:
    """Hinge loss of whoever made the images: ``-mean(score)``."""
    return -fake.mean()


def turned(images: Tensor) -> Tensor:
    """Images turned by 90, 180 and 270 degrees counter-clockwise, one angle after the other.

    Args:
        images: (N, C, H, H).

    Returns:
        (3 N, C, H, H).

    Raises:
        ValueError: Height and width differ.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(
            f'rotations need square images, got {tuple(images.shape[-2:])}: crop them or set '
            'self_supervision=None'
        )
    return torch.cat([images.rot90(turns, (2, 3)) for turns in range(1, ROTATIONS)])


def rotation_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the rotation head.

    Args:
        logits: (4 M, 4) of M images, then of the same M turned as by :func:`turned`.
    """
    labels = torch.arange(ROTATIONS, device=logits.device)
    return nn.functional.cross_entropy(logits, labels.repeat_interleave(len(logits) // ROTATIONS))


def rotation_accuracy(logits: Tensor) -> Tensor:
    """Share of images of :func:`rotation_loss` whose angle was found."""
    labels = torch.arange(ROTATIONS, device=logits.device)
    return (logits.argmax(1) == labels.repeat_interleave(len(logits) // ROTATIONS)).float().mean()


def shrink(images: Tensor, size: int) -> Tensor:
    """Box average to ``size`` x ``size``: what a low-resolution stage should show of an image."""
    return nn.functional.adaptive_avg_pool2d(images, size)


def enlarge(images: Tensor, size: int) -> Tensor:
    """Bilinear enlargement to ``size`` x ``size``."""
    return nn.functional.interpolate(images, size=(size, size), mode='bilinear')


def inject(feature: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """Add a gated change to a feature map; with a zero gate the feature stays as it is.

    Args:
        feature: (N, C, H, W).
        change: (N, C, H, W).
        gate: (C,).
    """
    return feature + gate[:, None, None] * change


def masked_l1(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference over the images that ``mask`` (N,) selects; 0 if none."""
    per_image = (output - target).abs().flatten(1).mean(1)
    return (per_image * mask).sum() / mask.sum().clamp(min=1)


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points on the arc between two noise vectors, both ends included.

    Straight lines between normal vectors pass through lengths that the generator never saw.

    Args:
        start: (D,).
        end: (D,).
        steps: Number of points, >= 2.

    Returns:
        (steps, D).

    Raises:
        ValueError: Fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f'steps={steps} must be at least 2, both ends')
    share = torch.linspace(0, 1, steps, dtype=start.dtype)[:, None]
    lengths = start.norm(), end.norm()
    cosine = torch.dot(start, end) / (lengths[0] * lengths[1])
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4:
        return (1 - share) * start + share * end
    weights = ((1 - share) * angle).sin(), (share * angle).sin()
    return (weights[0] * start + weights[1] * end) / angle.sin()
