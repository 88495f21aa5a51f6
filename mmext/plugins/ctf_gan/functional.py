"""Losses and image operations of CTF-GAN on plain tensors.

The paper's equations could not be read. The hinge loss is SN-GAN's (arXiv 1802.05957 and its code),
the rotation task SS-GAN's (arXiv 1811.11212); the rest is ours.
"""

import torch
from torch import Tensor, nn

#: Quarter turns of the rotation task.
ROTATIONS = 4


def hinge_disc(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Hinge loss of the discriminator.

    Args:
        real: Scores of real images, any shape.
        fake: Scores of made images, any shape.

    Returns:
        Its two terms, scalars >= 0, to be added.

    Reference: SN-GAN, arXiv 1802.05957.

    Example:
        >>> import torch
        >>> from mmext.functional import hinge_disc
        >>> hinge_disc(torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1.0]))
        (tensor(0.5000), tensor(1.))
    """
    return (1 - real).relu().mean(), (1 + fake).relu().mean()


def hinge_gen(fake: Tensor) -> Tensor:
    """Hinge loss of whoever made the images, generator or transfer network: ``-mean(score)``.

    Args:
        fake: Scores of made images, any shape.

    Returns:
        Scalar.

    Reference: SN-GAN, arXiv 1802.05957.

    Example:
        >>> import torch
        >>> from mmext.functional import hinge_gen
        >>> hinge_gen(torch.tensor([2.0, 0.0]))
        tensor(-1.)
    """
    return -fake.mean()


def turned(images: Tensor) -> Tensor:
    """Images turned by 90, 180 and 270 degrees counter-clockwise, one angle after the other.

    Args:
        images: (N, C, H, H).

    Returns:
        (3 N, C, H, H).

    Raises:
        ValueError: Height and width differ.

    Reference: SS-GAN, arXiv 1811.11212.

    Example:
        >>> import torch
        >>> from mmext.functional import turned
        >>> turned(torch.tensor([[[[1, 2], [3, 4]]]])).flatten(1)
        tensor([[2, 4, 1, 3],
                [4, 3, 2, 1],
                [3, 1, 4, 2]])
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

    Returns:
        Scalar. SS-GAN gives it the weight 1.0 on real images for the discriminator and 0.2 on made
        ones for the generator.

    Reference: SS-GAN, arXiv 1811.11212.

    Example:
        >>> import torch
        >>> from mmext.functional import rotation_loss, turned
        >>> images, head = torch.rand(2, 1, 8, 8), torch.nn.Linear(64, 4)
        >>> both = torch.cat([images, turned(images)])
        >>> rotation_loss(head(both.flatten(1))).shape
        torch.Size([])
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
        feature: Of a stage of the generator, (N, C, H, W).
        change: Transferring features, brought to C channels, (N, C, H, W).
        gate: (C,); start it at 0, so that the generator begins as without them.

    Returns:
        (N, C, H, W).

    Reference: arXiv 1909.11308; the gate is ours.

    Example:
        >>> import torch
        >>> from mmext.functional import inject
        >>> feature, change = torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
        >>> inject(feature, change, gate=torch.tensor([0.0, 0.5])).flatten()
        tensor([0.0000, 0.5000])
    """
    return feature + gate[:, None, None] * change


def masked_l1(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference over the images that have a target: loss of the transfer network.

    Args:
        output: Images that it made of low-quality ones, (N, C, H, W).
        target: High-quality images, (N, C, H, W); anything where there is none.
        mask: Whether an image has a target, bool (N,).

    Returns:
        Scalar >= 0; 0 if none has.

    Reference: arXiv 1909.11308; the loss is ours.

    Example:
        >>> import torch
        >>> from mmext.functional import masked_l1
        >>> made, wanted = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)
        >>> masked_l1(made, wanted, torch.tensor([True, False]))
        tensor(3.)
    """
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
