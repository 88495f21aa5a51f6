"""Grids of samples."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from .sampling import SamplingGAN


def chosen_rows(num_classes: int, classes: Sequence[int] | None, max_rows: int) -> list[int]:
    """Labels of the rows of a grid; without classes ``max_rows`` zeros.

    Raises:
        ValueError: A label is out of range.
    """
    if classes is None:
        if num_classes <= max_rows:
            return list(range(num_classes)) or [0] * max_rows
        return [round(i * (num_classes - 1) / max(max_rows - 1, 1)) for i in range(max_rows)]
    wrong = [label for label in classes if not 0 <= label < max(num_classes, 1)]
    if wrong:
        raise ValueError(f'classes {wrong} are outside of 0..{max(num_classes, 1) - 1}')
    return list(classes)


def class_grid(
    model: SamplingGAN, classes: Sequence[int], columns: int, seed: int, sample_model: str
) -> np.ndarray:
    """Samples of ``classes`` by rows, uint8 (H, W, C); columns share their noise if conditional."""
    rows = len(classes)
    device = next(model.parameters()).device
    noise, _ = model.draw(rows * columns, seed, 'ctf_gan/grid', 0, 0)
    if model.num_classes:
        noise = noise[:columns].repeat(rows, 1)
    label = torch.tensor(classes, device=device).repeat_interleave(columns)
    return grid_of(sample_all(model, noise, label, sample_model), columns)


def sample_all(
    model: SamplingGAN,
    noise: torch.Tensor,
    label: torch.Tensor,
    sample_model: str,
    batch_size: int = 64,
) -> torch.Tensor:
    """Samples uint8 (N, C, H, H) on the CPU, ``batch_size`` at a time."""
    parts = zip(noise.split(batch_size), label.split(batch_size), strict=True)
    made = [model.sample(some, labels, sample_model) for some, labels in parts]
    return torch.cat([model.data_preprocessor.destruct(part).cpu() for part in made])


def grid_of(images: torch.Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Images uint8 (N, C, H, W) by rows of ``columns``, a grey gap between, (H', W', C)."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    shape = rows * (height + gap) + gap, columns * (width + gap) + gap, channels
    canvas = np.full(shape, 128, np.uint8)
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        row, column = divmod(index, columns)
        y, x = gap + row * (height + gap), gap + column * (width + gap)
        canvas[y : y + height, x : x + width] = image
    return canvas


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, C), grey or RGB.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image[..., ::-1] if image.shape[2] == 3 else image
    if not cv2.imwrite(str(path), np.ascontiguousarray(pixels)):
        raise OSError(f'{path} cannot be written')
