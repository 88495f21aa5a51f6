"""From a batch of the dataloader to what a GAN computes with, and back."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mmext.registry import MODELS

#: Entries of ``inputs`` that hold images.
IMAGES = ('img', 'lq')


@MODELS.register_module()
class GANDataPreprocessor(BaseDataPreprocessor):
    """Move a batch to the device and scale its images, by default from [0, 255] to [-1, 1].

    ``inputs`` may be a stacked tensor, as MMPretrain's PackInputs makes it, or a dict with ``img``
    (and ``lq``), as ``mmext.PackGANInputs`` makes it; other entries, such as ``noise`` or
    ``num_batches``, pass through.

    Args:
        mean: One number, or one per channel.
        std: The same.
        to_rgb: Reverse the order of the channels, for datasets that load BGR.
        non_blocking: Of the transfer to the device.

    Raises:
        TypeError: ``inputs`` is a list, whose images were not stacked.
        ValueError: The images are no (N, C, H, W).

    Example:
        >>> data_preprocessor = dict(type='mmext.GANDataPreprocessor')
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = 127.5,
        std: float | Sequence[float] = 127.5,
        to_rgb: bool = False,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        self.to_rgb = to_rgb
        for name, value in (('mean', mean), ('std', std)):
            values = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``{'inputs': dict, 'data_samples': list or None}``."""
        data = self.cast_data(data)
        inputs = data['inputs']
        if isinstance(inputs, list | tuple):
            raise TypeError(
                'images of a batch must be stacked: set '
                "train_dataloader.collate_fn=dict(type='default_collate')"
            )
        inputs = {'img': inputs} if isinstance(inputs, Tensor) else dict(inputs)
        for name in IMAGES:
            if name in inputs:
                inputs[name] = self.scale(inputs[name])
        return {'inputs': inputs, 'data_samples': data.get('data_samples')}

    def scale(self, images: Tensor) -> Tensor:
        """Raw images (N, C, H, W) to the range of the generator."""
        if images.ndim != 4:
            raise ValueError(f'images must be (N, C, H, W), got {tuple(images.shape)}')
        if self.to_rgb and images.shape[1] == 3:
            images = images.flip(1)
        return (images.float() - self.mean) / self.std

    def destruct(self, images: Tensor) -> Tensor:
        """Images of the generator (..., C, H, W) to uint8; RGB stays RGB."""
        return (images.detach().float() * self.std + self.mean).clamp(0, 255).round().byte()

    def cast_data(self, data: Any) -> Any:
        """As the parent; entries that are no tensors stay as they are."""
        if isinstance(data, Tensor):
            return data.to(self.device, non_blocking=self._non_blocking)
        if isinstance(data, dict):
            return {key: self.cast_data(value) for key, value in data.items()}
        # Labels are read on the CPU and moved in one piece.
        return data
