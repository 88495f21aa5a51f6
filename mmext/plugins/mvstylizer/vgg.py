"""Statistics of VGG-19 features, from a weight file of the user; nothing is downloaded."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

#: Convolutions up to relu4_1: (index in torchvision's ``features``, inputs, outputs).
LAYERS = (
    (0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256),
    (14, 256, 256), (16, 256, 256), (19, 256, 512),
)  # fmt: skip
#: Convolutions whose output counts (relu1_1 to relu4_1), and those that a pooling precedes.
TOLD = (0, 5, 10, 19)
POOLED = (5, 10, 19)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGStatistics(nn.Module):
    """Distance between the feature statistics of two images.

    Args:
        path: State dict of torchvision's VGG-19, whole or its ``features`` up to number 19.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no VGG-19.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise FileNotFoundError(f'vgg={path!r} does not exist; mmext never downloads weights')
        state = torch.load(path, map_location='cpu', weights_only=True)
        self.layers = nn.ModuleDict()
        for index, before, after in LAYERS:
            layer = nn.Conv2d(before, after, 3, padding=1)
            weight, bias = (state.get(f'features.{index}.{name}') for name in ('weight', 'bias'))
            if weight is None or bias is None or weight.shape != layer.weight.shape:
                raise ValueError(f'vgg={path!r} is no VGG-19 of torchvision: features.{index}')
            layer.load_state_dict({'weight': weight, 'bias': bias})
            self.layers[str(index)] = layer
        self.requires_grad_(False)

    def distance(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared distance of the means and deviations of all layers' channels."""
        shift, scale = (made.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        count = len(made)
        features = torch.cat([(made - shift) / scale, (wanted - shift) / scale])
        total = made.new_zeros(())
        for index, _, _ in LAYERS:
            if index in POOLED:
                features = F.max_pool2d(features, 2)
            features = F.relu(self.layers[str(index)](features))
            if index in TOLD:
                flat = features.flatten(2)
                for told in (flat.mean(2), flat.std(2)):
                    total = total + F.mse_loss(told[:count], told[count:])
        return total
